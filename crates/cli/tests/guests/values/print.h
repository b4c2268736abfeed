// Tiny output functions that the guests share. A line is begin(), some put
// functions and end(); show functions write a whole line.
#ifndef PRINT_H
#define PRINT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// The compiler cannot know these, so no value made from them is a constant.
extern volatile int32_t seed;          // 1
extern volatile float seed_float;      // 0.5
extern volatile double seed_double;    // 0.125
extern volatile long double seed_quad; // -0.0625

// Memory that is never freed, zeroed.
void *allocate(size_t size, size_t alignment);

void begin(const char *name);
void end(void);
void put_raw(const char *text);
void put_signed(int64_t value);
void put_unsigned(uint64_t value);
void put_signed128(const void *value);
void put_unsigned128(const void *value);
void put_truth(int value);
void put_char(unsigned char value);
void put_unicode(uint32_t value);
void put_float16(const void *value);
void put_float32(float value);
void put_float64(double value);
void put_float128(const void *value);
void put_address(const volatile void *address);
void put_quoted(const char *text, size_t length);
void put_cstring(const char *text);

void show_signed(const char *name, int64_t value);
void show_unsigned(const char *name, uint64_t value);
void show_signed128(const char *name, const void *value);
void show_unsigned128(const char *name, const void *value);
void show_truth(const char *name, int value);
void show_char(const char *name, unsigned char value);
void show_unicode(const char *name, uint32_t value);
void show_float16(const char *name, const void *value);
void show_float32(const char *name, float value);
void show_float64(const char *name, double value);
void show_float128(const char *name, const void *value);
void show_address(const char *name, const volatile void *address);
void show_cstring(const char *name, const char *text);
void show_raw(const char *name, const char *text);

#ifdef __cplusplus
}
#endif

#endif
