// The output functions of print.h. Compiled without debug information, so that
// the guests' own variables are the only ones described.
#include "print.h"

typedef unsigned __int128 u128;

struct Slice {
    const void *data;
    size_t length;
};

__attribute__((import_module("wasi_snapshot_preview1"), import_name("fd_write")))
int32_t fd_write(int32_t file, const struct Slice *slices, size_t count, size_t *written);

volatile int32_t seed = 1;
volatile float seed_float = 0.5f;
volatile double seed_double = 0.125;
volatile long double seed_quad = -0.0625L;

static uint8_t heap[16384];
static size_t heap_used;

void *allocate(size_t size, size_t alignment) {
    size_t start = ((uintptr_t)heap + heap_used + alignment - 1) / alignment * alignment;
    size_t end = start + size - (uintptr_t)heap;
    if (end > sizeof heap)
        __builtin_trap();
    heap_used = end;
    return (void *)start;
}

static char buffer[1024];
static size_t used;

static void flush(void) {
    struct Slice slice = {buffer, used};
    size_t written;
    if (used != 0)
        fd_write(1, &slice, 1, &written);
    used = 0;
}

static void put_byte(char byte) {
    if (used == sizeof buffer)
        flush();
    buffer[used++] = byte;
}

void put_raw(const char *text) {
    while (*text)
        put_byte(*text++);
}

void begin(const char *name) {
    put_raw(name);
    put_raw(" = ");
}

void end(void) {
    put_byte('\n');
    flush();
}

static u128 join(uint64_t high, uint64_t low) {
    return (u128)high << 64 | low;
}

// Shifts by a variable distance: the compiler would call a library for them.
static u128 power(int exponent) {
    return exponent < 64 ? join(0, 1ull << exponent) : join(1ull << (exponent - 64), 0);
}

static u128 shift_right(u128 value, int bits) {
    uint64_t high = (uint64_t)(value >> 64);
    uint64_t low = (uint64_t)value;
    if (bits >= 64)
        return high >> (bits - 64);
    return bits == 0 ? value : join(high >> bits, high << (64 - bits) | low >> bits);
}

static void put_decimal(u128 value, int negative) {
    char digits[40];
    int count = 0;
    if (negative)
        put_byte('-');
    do {
        u128 quotient = 0;
        uint64_t rest = 0;
        for (int i = 0; i < 4; i++) {
            rest = rest << 32 | (uint32_t)(value >> 96);
            quotient = quotient << 32 | rest / 10;
            rest %= 10;
            value <<= 32;
        }
        digits[count++] = (char)('0' + rest);
        value = quotient;
    } while (value != 0);
    while (count > 0)
        put_byte(digits[--count]);
}

void put_signed(int64_t value) {
    put_decimal(value < 0 ? 0 - (uint64_t)value : (uint64_t)value, value < 0);
}

void put_unsigned(uint64_t value) {
    put_decimal(value, 0);
}

static u128 load128(const void *value) {
    u128 wide;
    __builtin_memcpy(&wide, value, sizeof wide);
    return wide;
}

void put_signed128(const void *value) {
    u128 wide = load128(value);
    int negative = (int)(wide >> 127);
    put_decimal(negative ? 0 - wide : wide, negative);
}

void put_unsigned128(const void *value) {
    put_decimal(load128(value), 0);
}

void put_truth(int value) {
    put_raw(value ? "true" : "false");
}

static void put_hex(uint32_t value, int digits) {
    while (digits > 0)
        put_byte("0123456789abcdef"[value >> (4 * --digits) & 15]);
}

void put_address(const volatile void *address) {
    uint32_t value = (uint32_t)(uintptr_t)address;
    int digits = 1;
    while (digits < 8 && value >> (4 * digits) != 0)
        digits++;
    put_raw("0x");
    put_hex(value, digits);
}

static void put_escaped_byte(unsigned char byte) {
    put_raw("\\x");
    put_hex(byte, 2);
}

void put_char(unsigned char value) {
    put_byte('\'');
    if (value == '\n')
        put_raw("\\n");
    else if (value == '\t')
        put_raw("\\t");
    else if (value == 0)
        put_raw("\\0");
    else if (value == '\\' || value == '\'') {
        put_byte('\\');
        put_byte((char)value);
    } else if (value < ' ' || value > '~')
        put_escaped_byte(value);
    else
        put_byte((char)value);
    put_byte('\'');
}

void put_unicode(uint32_t value) {
    if (value < 0x80) {
        put_char((unsigned char)value);
        return;
    }
    put_byte('\'');
    if (value < 0x800) {
        put_byte((char)(0xc0 | value >> 6));
    } else {
        if (value < 0x10000) {
            put_byte((char)(0xe0 | value >> 12));
        } else {
            put_byte((char)(0xf0 | value >> 18));
            put_byte((char)(0x80 | (value >> 12 & 63)));
        }
        put_byte((char)(0x80 | (value >> 6 & 63)));
    }
    put_byte((char)(0x80 | (value & 63)));
    put_byte('\'');
}

// The length of the UTF-8 sequence at the start of the text, 0 if it is invalid.
static size_t sequence(const unsigned char *text, size_t length) {
    size_t size = text[0] < 0x80 ? 1 : text[0] < 0xc2 ? 0 : text[0] < 0xe0 ? 2
                : text[0] < 0xf0 ? 3 : text[0] < 0xf5 ? 4 : 0;
    if (size > length)
        return 0;
    for (size_t i = 1; i < size; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    if (size == 3 && ((text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xed && text[1] > 0x9f)))
        return 0;
    if (size == 4 && ((text[0] == 0xf0 && text[1] < 0x90) || (text[0] == 0xf4 && text[1] > 0x8f)))
        return 0;
    return size;
}

void put_quoted(const char *text, size_t length) {
    put_byte('"');
    while (length > 0) {
        unsigned char byte = (unsigned char)*text;
        size_t size = sequence((const unsigned char *)text, length);
        if (size > 1) {
            for (size_t i = 0; i < size; i++)
                put_byte(text[i]);
        } else {
            size = 1;
            if (byte == '\n')
                put_raw("\\n");
            else if (byte == '\t')
                put_raw("\\t");
            else if (byte == '\r')
                put_raw("\\r");
            else if (byte == 0)
                put_raw("\\0");
            else if (byte == '\\' || byte == '"') {
                put_byte('\\');
                put_byte((char)byte);
            } else if (byte < ' ' || byte > '~')
                put_escaped_byte(byte);
            else
                put_byte((char)byte);
        }
        text += size;
        length -= size;
    }
    put_byte('"');
}

void put_cstring(const char *text) {
    size_t length = 0;
    put_address(text);
    if (!text)
        return;
    while (text[length])
        length++;
    put_byte(' ');
    put_quoted(text, length);
}

// Shortest decimal text of a float, by Steele and White's algorithm.
enum { LIMBS = 40 };

struct Big {
    uint32_t limb[LIMBS];
};

static void big_set(struct Big *a, u128 value) {
    for (int i = 0; i < LIMBS; i++) {
        a->limb[i] = (uint32_t)value;
        value >>= 32;
    }
}

static void big_multiply(struct Big *a, uint32_t factor) {
    uint64_t carry = 0;
    for (int i = 0; i < LIMBS; i++) {
        carry += (uint64_t)a->limb[i] * factor;
        a->limb[i] = (uint32_t)carry;
        carry >>= 32;
    }
}

static void big_shift(struct Big *a, int bits) {
    for (; bits >= 16; bits -= 16)
        big_multiply(a, 1u << 16);
    big_multiply(a, 1u << bits);
}

static void big_add(struct Big *sum, const struct Big *a, const struct Big *b) {
    uint64_t carry = 0;
    for (int i = 0; i < LIMBS; i++) {
        carry += (uint64_t)a->limb[i] + b->limb[i];
        sum->limb[i] = (uint32_t)carry;
        carry >>= 32;
    }
}

static void big_subtract(struct Big *a, const struct Big *b) {
    int64_t carry = 0;
    for (int i = 0; i < LIMBS; i++) {
        carry += (int64_t)a->limb[i] - b->limb[i];
        a->limb[i] = (uint32_t)carry;
        carry >>= 32;
    }
}

static int big_compare(const struct Big *a, const struct Big *b) {
    for (int i = LIMBS - 1; i >= 0; i--)
        if (a->limb[i] != b->limb[i])
            return a->limb[i] < b->limb[i] ? -1 : 1;
    return 0;
}

static void put_digits(const char *digits, int count, int point) {
    if (point > 16 || point < -3) {
        put_byte(digits[0]);
        if (count > 1)
            put_byte('.');
        for (int i = 1; i < count; i++)
            put_byte(digits[i]);
        put_byte('e');
        put_signed(point - 1);
        return;
    }
    if (point <= 0)
        put_byte('0');
    for (int i = 0; i < point; i++)
        put_byte(i < count ? digits[i] : '0');
    put_byte('.');
    for (int i = point; i < 0; i++)
        put_byte('0');
    for (int i = point < 0 ? 0 : point; i < count; i++)
        put_byte(digits[i]);
    if (point >= count)
        put_byte('0');
}

// The bits of a float with so many bits of fraction and of exponent.
static void put_float(u128 bits, int fraction, int exponent) {
    u128 mantissa = bits & (power(fraction) - 1);
    int mask = (1 << exponent) - 1;
    int field = (int)shift_right(bits, fraction) & mask;
    int is_special = field == mask;
    if (is_special && mantissa != 0) {
        put_raw("NaN");
        return;
    }
    if (shift_right(bits, fraction + exponent) & 1)
        put_byte('-');
    if (is_special) {
        put_raw("inf");
        return;
    }
    if (field == 0 && mantissa == 0) {
        put_raw("0.0");
        return;
    }
    int is_boundary = mantissa == 0 && field > 1;
    if (field == 0)
        field = 1;
    else
        mantissa |= power(fraction);
    int scale = field - (mask >> 1) - fraction;
    int is_even = !(mantissa & 1);

    struct Big rest, unit, above, below, sum;
    big_set(&rest, mantissa);
    big_set(&unit, 1);
    big_set(&above, 1);
    big_shift(&rest, 1 + is_boundary + (scale > 0 ? scale : 0));
    big_shift(&unit, 1 + is_boundary + (scale < 0 ? -scale : 0));
    big_shift(&above, scale > 0 ? scale : 0);
    below = above;
    big_shift(&above, is_boundary);

    int point = 0;
    for (;;) {
        big_add(&sum, &rest, &above);
        if (big_compare(&sum, &unit) < (is_even ? 0 : 1))
            break;
        big_multiply(&unit, 10);
        point++;
    }
    for (;;) {
        big_add(&sum, &rest, &above);
        big_multiply(&sum, 10);
        if (big_compare(&sum, &unit) >= (is_even ? 0 : 1))
            break;
        big_multiply(&rest, 10);
        big_multiply(&above, 10);
        big_multiply(&below, 10);
        point--;
    }
    char digits[40];
    int count = 0;
    for (;;) {
        int digit = 0;
        big_multiply(&rest, 10);
        big_multiply(&above, 10);
        big_multiply(&below, 10);
        while (big_compare(&rest, &unit) >= 0) {
            big_subtract(&rest, &unit);
            digit++;
        }
        big_add(&sum, &rest, &above);
        int is_low = big_compare(&rest, &below) < (is_even ? 1 : 0);
        int is_high = big_compare(&sum, &unit) >= (is_even ? 0 : 1);
        if (is_low && is_high) {
            big_add(&sum, &rest, &rest);
            is_high = big_compare(&sum, &unit) >= 0;
        }
        digits[count++] = (char)('0' + digit + is_high);
        if (is_low || is_high)
            break;
    }
    put_digits(digits, count, point);
}

void put_float16(const void *value) {
    uint16_t bits;
    __builtin_memcpy(&bits, value, sizeof bits);
    put_float(bits, 10, 5);
}

void put_float32(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    put_float(bits, 23, 8);
}

void put_float64(double value) {
    uint64_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    put_float(bits, 52, 11);
}

void put_float128(const void *value) {
    put_float(load128(value), 112, 15);
}

#define SHOW(suffix, type)                             \
    void show_##suffix(const char *name, type value) { \
        begin(name);                                   \
        put_##suffix(value);                           \
        end();                                         \
    }

SHOW(signed, int64_t)
SHOW(unsigned, uint64_t)
SHOW(signed128, const void *)
SHOW(unsigned128, const void *)
SHOW(truth, int)
SHOW(char, unsigned char)
SHOW(unicode, uint32_t)
SHOW(float16, const void *)
SHOW(float32, float)
SHOW(float64, double)
SHOW(float128, const void *)
SHOW(address, const volatile void *)
SHOW(cstring, const char *)
SHOW(raw, const char *)
