// Variables of many C types. Every function writes each of its variables as
// FUNCTION.NAME = TEXT and calls the next one; the innermost one traps.
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mixed.h"
#include "print.h"

#define NOINLINE __attribute__((noinline))
// Output functions are never on the stack at the trap: they need no description.
#define HELPER static __attribute__((noinline, nodebug))

enum Color { RED, GREEN = 5, BLUE };
enum Level { LOW = -3, MIDDLE = 0, HIGH = 9 };
enum Wide { WIDE_SMALL = 1, WIDE_LARGE = 0x100000000 };

struct Point {
    int32_t x;
    int32_t y;
};

struct Line {
    struct Point from;
    struct Point to;
    enum Color color;
};

struct Single {
    double only;
};

struct Empty {};

struct Node {
    int16_t value;
    struct Node *next;
    const char *label;
};

struct Tagged {
    uint8_t kind;
    union {
        int32_t number;
        float ratio;
    };
    struct {
        int16_t first;
        int16_t second;
    };
};

union Number {
    int32_t integer;
    float real;
    uint8_t bytes[4];
};

struct Bits {
    unsigned low : 3;
    int middle : 5;
    bool on : 1;
    unsigned crossing : 13;
    enum Color color : 3;
    enum Level level : 5;
    int64_t wide : 40;
    uint8_t tail : 4;
    unsigned : 0;
    int32_t last : 32;
};

struct __attribute__((packed)) Packed {
    uint8_t tag;
    uint32_t length;
    uint64_t flag : 1;
    uint64_t rest : 50;
};

typedef int32_t Meters;
typedef const volatile Meters Reading;
typedef Reading *ReadingPointer;
typedef int (*Callback)(int);
typedef float Float4 __attribute__((vector_size(16)));
typedef int16_t Short8 __attribute__((vector_size(16)));
typedef struct {
    uint8_t red, green, blue;
} Shade;

static int32_t tally;
uint64_t total;
static struct Point origin;
static int16_t table[3];
static const char *title;
static int32_t *tally_pointer;
enum Color paint;
static double factor;
static char code[6];
static struct Node first_node;
struct Node *head;
static bool ready;

HELPER void put_color(enum Color color) {
    if (color == RED)
        put_raw("RED");
    else if (color == GREEN)
        put_raw("GREEN");
    else if (color == BLUE)
        put_raw("BLUE");
    else
        put_signed(color);
}

HELPER void put_level(enum Level level) {
    if (level == LOW)
        put_raw("LOW");
    else if (level == MIDDLE)
        put_raw("MIDDLE");
    else if (level == HIGH)
        put_raw("HIGH");
    else
        put_signed(level);
}

HELPER void show_color(const char *name, enum Color color) {
    begin(name);
    put_color(color);
    end();
}

HELPER void show_level(const char *name, enum Level level) {
    begin(name);
    put_level(level);
    end();
}

HELPER void show_wide(const char *name, enum Wide wide) {
    if (wide == WIDE_LARGE)
        show_raw(name, "WIDE_LARGE");
    else
        show_raw(name, "WIDE_SMALL");
}

HELPER void put_point(const struct Point *point) {
    put_raw("{x = ");
    put_signed(point->x);
    put_raw(", y = ");
    put_signed(point->y);
    put_raw("}");
}

HELPER void show_point(const char *name, const struct Point *point) {
    begin(name);
    put_point(point);
    end();
}

HELPER void put_line(const struct Line *line) {
    put_raw("{from = ");
    put_point(&line->from);
    put_raw(", to = ");
    put_point(&line->to);
    put_raw(", color = ");
    put_color(line->color);
    put_raw("}");
}

HELPER void show_line(const char *name, const struct Line *line) {
    begin(name);
    put_line(line);
    end();
}

HELPER void show_line_pointer(const char *name, const struct Line *line) {
    begin(name);
    put_address(line);
    put_raw(" -> ");
    put_line(line);
    end();
}

HELPER void show_point_pointer(const char *name, const struct Point *point) {
    begin(name);
    put_address(point);
    put_raw(" -> ");
    put_point(point);
    end();
}

HELPER void show_single(const char *name, const struct Single *single) {
    begin(name);
    put_raw("{only = ");
    put_float64(single->only);
    put_raw("}");
    end();
}

// Behind a pointer the pointers are only addresses.
HELPER void put_node(const struct Node *node, bool is_target) {
    put_raw("{value = ");
    put_signed(node->value);
    put_raw(", next = ");
    put_address(node->next);
    if (!is_target && node->next) {
        put_raw(" -> ");
        put_node(node->next, true);
    }
    put_raw(", label = ");
    if (is_target)
        put_address(node->label);
    else
        put_cstring(node->label);
    put_raw("}");
}

HELPER void show_node(const char *name, const struct Node *node) {
    begin(name);
    put_node(node, false);
    end();
}

HELPER void show_node_pointer(const char *name, const struct Node *node) {
    begin(name);
    put_address(node);
    put_raw(" -> ");
    put_node(node, true);
    end();
}

HELPER void show_tagged(const char *name, const struct Tagged *tagged) {
    begin(name);
    put_raw("{kind = ");
    put_unsigned(tagged->kind);
    put_raw(", {number = ");
    put_signed(tagged->number);
    put_raw(", ratio = ");
    put_float32(tagged->ratio);
    put_raw("}, {first = ");
    put_signed(tagged->first);
    put_raw(", second = ");
    put_signed(tagged->second);
    put_raw("}}");
    end();
}

HELPER void put_number(const union Number *number) {
    put_raw("{integer = ");
    put_signed(number->integer);
    put_raw(", real = ");
    put_float32(number->real);
    put_raw(", bytes = [");
    for (int i = 0; i < 4; i++) {
        put_raw(i ? ", " : "");
        put_unsigned(number->bytes[i]);
    }
    put_raw("]}");
}

HELPER void show_number(const char *name, const union Number *number) {
    begin(name);
    put_number(number);
    end();
}

HELPER void show_bits(const char *name, const struct Bits *bits) {
    begin(name);
    put_raw("{low = ");
    put_unsigned(bits->low);
    put_raw(", middle = ");
    put_signed(bits->middle);
    put_raw(", on = ");
    put_truth(bits->on);
    put_raw(", crossing = ");
    put_unsigned(bits->crossing);
    put_raw(", color = ");
    put_color(bits->color);
    put_raw(", level = ");
    put_level(bits->level);
    put_raw(", wide = ");
    put_signed(bits->wide);
    put_raw(", tail = ");
    put_unsigned(bits->tail);
    put_raw(", last = ");
    put_signed(bits->last);
    put_raw("}");
    end();
}

HELPER void show_packed(const char *name, const struct Packed *packed) {
    begin(name);
    put_raw("{tag = ");
    put_unsigned(packed->tag);
    put_raw(", length = ");
    put_unsigned(packed->length);
    put_raw(", flag = ");
    put_unsigned(packed->flag);
    put_raw(", rest = ");
    put_unsigned(packed->rest);
    put_raw("}");
    end();
}

HELPER void show_shade(const char *name, const Shade *shade) {
    begin(name);
    put_raw("{red = ");
    put_unsigned(shade->red);
    put_raw(", green = ");
    put_unsigned(shade->green);
    put_raw(", blue = ");
    put_unsigned(shade->blue);
    put_raw("}");
    end();
}

HELPER void put_ints(const int32_t *ints, int count) {
    put_raw("[");
    for (int i = 0; i < count; i++) {
        put_raw(i ? ", " : "");
        put_signed(ints[i]);
    }
    put_raw("]");
}

HELPER void show_ints(const char *name, const int32_t *ints, int count) {
    begin(name);
    put_ints(ints, count);
    end();
}

HELPER void show_shorts(const char *name, const int16_t *shorts, int count) {
    begin(name);
    put_raw("[");
    for (int i = 0; i < count; i++) {
        put_raw(i ? ", " : "");
        put_signed(shorts[i]);
    }
    put_raw("]");
    end();
}

HELPER void show_bytes(const char *name, const uint8_t *bytes, int count) {
    begin(name);
    put_raw("[");
    for (int i = 0; i < count; i++) {
        put_raw(i ? ", " : "");
        put_unsigned(bytes[i]);
    }
    put_raw("]");
    end();
}

HELPER void show_floats(const char *name, const float *floats, int count) {
    begin(name);
    put_raw("[");
    for (int i = 0; i < count; i++) {
        put_raw(i ? ", " : "");
        put_float32(floats[i]);
    }
    put_raw("]");
    end();
}

HELPER void show_matrix(const char *name, const int32_t (*rows)[3], int count) {
    begin(name);
    put_raw("[");
    for (int i = 0; i < count; i++) {
        put_raw(i ? ", " : "");
        put_ints(rows[i], 3);
    }
    put_raw("]");
    end();
}

HELPER void show_row_pointer(const char *name, const int32_t (*row)[3]) {
    begin(name);
    put_address(row);
    put_raw(" -> ");
    put_ints(*row, 3);
    end();
}

HELPER void put_chars(const char *chars, size_t size) {
    size_t length = 0;
    while (length < size && chars[length])
        length++;
    put_quoted(chars, length);
}

HELPER void show_chars(const char *name, const char *chars, size_t size) {
    begin(name);
    put_chars(chars, size);
    end();
}

HELPER void show_grid(const char *name, const char (*grid)[4], int count) {
    begin(name);
    put_raw("[");
    for (int i = 0; i < count; i++) {
        put_raw(i ? ", " : "");
        put_chars(grid[i], 4);
    }
    put_raw("]");
    end();
}

HELPER void show_words(const char *name, const char *const *words, int count) {
    begin(name);
    put_raw("[");
    for (int i = 0; i < count; i++) {
        put_raw(i ? ", " : "");
        put_cstring(words[i]);
    }
    put_raw("]");
    end();
}

HELPER void show_path(const char *name, const struct Point *points, int count) {
    begin(name);
    put_raw("[");
    for (int i = 0; i < count; i++) {
        put_raw(i ? ", " : "");
        put_point(&points[i]);
    }
    put_raw("]");
    end();
}

HELPER void show_int_pointer(const char *name, const volatile int32_t *target) {
    begin(name);
    put_address(target);
    if (target) {
        put_raw(" -> ");
        put_signed(*target);
    }
    end();
}

HELPER void show_byte_pointer(const char *name, const uint8_t *target) {
    begin(name);
    put_address(target);
    put_raw(" -> ");
    put_unsigned(*target);
    end();
}

HELPER void show_double_pointer(const char *name, const double *target) {
    begin(name);
    put_address(target);
    put_raw(" -> ");
    put_float64(*target);
    end();
}

HELPER void show_color_pointer(const char *name, const enum Color *target) {
    begin(name);
    put_address(target);
    put_raw(" -> ");
    put_color(*target);
    end();
}

HELPER void show_number_pointer(const char *name, const union Number *target) {
    begin(name);
    put_address(target);
    put_raw(" -> ");
    put_number(target);
    end();
}

HELPER void show_pointer_pointer(const char *name, const void *const *target) {
    begin(name);
    put_address(target);
    put_raw(" -> ");
    put_address(*target);
    end();
}

HELPER void show_complex(const char *name, double real, double imaginary) {
    begin(name);
    put_float64(real);
    put_raw(imaginary < 0 ? " - " : " + ");
    put_float64(imaginary < 0 ? -imaginary : imaginary);
    put_raw("i");
    end();
}

HELPER void show_statics(void) {
    show_signed("::tally", tally);
    show_unsigned("::total", total);
    show_point("::origin", &origin);
    show_shorts("::table", table, 3);
    show_cstring("::title", title);
    show_int_pointer("::tally_pointer", tally_pointer);
    show_color("::paint", paint);
    show_float64("::factor", factor);
    show_chars("::code", code, sizeof code);
    show_node("::first_node", &first_node);
    show_node_pointer("::head", head);
    show_truth("::ready", ready);
}

static NOINLINE int twice(int number) {
    return number * 2 * seed;
}

static NOINLINE int innermost(unsigned level) {
    static int calls = 40;
    static struct Point last = {1, 2};
    static const char *const note = "kept";
    int shadow = (int)level * -7;
    calls += seed;
    last.y += calls;
    show_unsigned("innermost.level", level);
    show_signed("innermost.calls", calls);
    show_point("innermost.last", &last);
    show_cstring("innermost.note", note);
    show_signed("innermost.shadow", shadow);
    {
        double shadow = seed_double * level;
        char mark = (char)('a' + seed);
        show_float64("innermost.shadow", shadow);
        show_char("innermost.mark", (unsigned char)mark);
        show_statics();
        if (seed)
            __builtin_trap();
        return shadow > mark;
    }
    return shadow;
}

static NOINLINE int pointers(const char *restrict text, struct Line *line, int32_t **link,
                             void *opaque, Callback callback) {
    struct Node end_node = {(int16_t)(seed * -11), NULL, "end"};
    struct Node node = {(int16_t)(seed * 12), &end_node, "mid\\dle"};
    struct Node *list = &node;
    struct Point *nowhere = seed ? NULL : &line->from;
    struct Point *inside = &line->to;
    Reading depth = seed * 77;
    ReadingPointer gauge = &depth;
    uint8_t octet = (uint8_t)(seed * 200);
    uint8_t *bytes = &octet;
    double real = seed_double * -3;
    const double *const real_pointer = &real;
    enum Color color = (enum Color)(seed * 6);
    enum Color *color_pointer = &color;
    union Number number = {.integer = seed * 0x41424344};
    union Number *number_pointer = &number;
    int32_t row[3] = {seed, seed * 2, seed * 3};
    int32_t(*row_pointer)[3] = &row;
    const char *words[3] = {"one", text, seed ? NULL : text};
    const char **word = &words[seed];
    char escapes[16] = "a\tb\"c\\d\x01\xff";
    char *escaped = escapes;
    Callback none = seed ? NULL : callback;
    const void *unknown = &octet;
    escapes[0] = (char)('A' + seed);
    show_cstring("pointers.text", text);
    show_line_pointer("pointers.line", line);
    show_pointer_pointer("pointers.link", (const void *const *)link);
    show_address("pointers.opaque", opaque);
    show_address("pointers.callback", (const void *)callback);
    show_node("pointers.end_node", &end_node);
    show_node("pointers.node", &node);
    show_node_pointer("pointers.list", list);
    show_address("pointers.nowhere", nowhere);
    show_point_pointer("pointers.inside", inside);
    show_signed("pointers.depth", depth);
    show_int_pointer("pointers.gauge", gauge);
    show_unsigned("pointers.octet", octet);
    show_byte_pointer("pointers.bytes", bytes);
    show_float64("pointers.real", real);
    show_double_pointer("pointers.real_pointer", real_pointer);
    show_color("pointers.color", color);
    show_color_pointer("pointers.color_pointer", color_pointer);
    show_number("pointers.number", &number);
    show_number_pointer("pointers.number_pointer", number_pointer);
    show_ints("pointers.row", row, 3);
    show_row_pointer("pointers.row_pointer", (const int32_t(*)[3])row_pointer);
    show_words("pointers.words", words, 3);
    show_pointer_pointer("pointers.word", (const void *const *)word);
    show_chars("pointers.escapes", escapes, sizeof escapes);
    show_cstring("pointers.escaped", escaped);
    show_address("pointers.none", (const void *)none);
    show_address("pointers.unknown", unknown);
    return innermost((unsigned)seed * 4) + node.value + inside->x + callback(octet);
}

NOINLINE int descend(int depth) {
    struct Line line = {{depth, seed}, {depth * 2, -seed}, BLUE};
    char text[24] = "caf\u00e9 \u2603 ?\n";
    int32_t *link = &tally;
    text[9] = (char)('0' + seed);
    show_signed("descend.depth", depth);
    show_line("descend.line", &line);
    show_chars("descend.text", text, sizeof text);
    show_int_pointer("descend.link", link);
    return pointers(text, &line, &link, &line.to, twice) + depth;
}

static NOINLINE int aggregates(struct Point point, struct Line *line, union Number number,
                               struct Single single) {
    struct Tagged tagged = {.kind = (uint8_t)(seed * 3), .ratio = seed_float * 3, .first = -1};
    struct Bits bits = {5, -9, true, 5000, GREEN, LOW, -400000000000, 11, -2000000000};
    struct Packed packed = {7, 0xdeadbeef, 1, 0x3ffffffffffff};
    struct Empty empty;
    Shade shade = {255, 128, (uint8_t)seed};
    int32_t numbers[4] = {1, -2, 3, seed * -4};
    int32_t matrix[2][3] = {{1, 2, 3}, {4, 5, seed * 6}};
    struct Point path[2] = {{seed, 2}, {3, seed * 4}};
    uint8_t bytes[3] = {0, 127, (uint8_t)(seed * 255)};
    char name[8] = "ab\nd";
    char full[4] = {'f', 'u', 'l', 'L'};
    char grid[2][4] = {"ab", "cde"};
    float samples[2] = {seed_float, seed_float * -3};
    tagged.second = (int16_t)(seed * 300);
    bits.low -= (unsigned)seed;
    bits.wide += seed;
    packed.length += (uint32_t)seed;
    name[0] = (char)('A' + seed);
    full[3] = (char)('k' + seed);
    grid[1][0] = (char)('C' + seed);
    show_point("aggregates.point", &point);
    show_line_pointer("aggregates.line", line);
    show_number("aggregates.number", &number);
    show_single("aggregates.single", &single);
    show_tagged("aggregates.tagged", &tagged);
    show_bits("aggregates.bits", &bits);
    show_packed("aggregates.packed", &packed);
    show_raw("aggregates.empty", "{}");
    show_shade("aggregates.shade", &shade);
    show_ints("aggregates.numbers", numbers, 4);
    show_matrix("aggregates.matrix", (const int32_t(*)[3])matrix, 2);
    show_path("aggregates.path", path, 2);
    show_bytes("aggregates.bytes", bytes, 3);
    show_chars("aggregates.name", name, sizeof name);
    show_chars("aggregates.full", full, sizeof full);
    show_grid("aggregates.grid", (const char(*)[4])grid, 2);
    show_floats("aggregates.samples", samples, 2);
    (void)empty;
    return mixed_in(seed * 20) + point.x + numbers[3] + (int)single.only;
}

static NOINLINE int floats(float single, double real, long double quad) {
    double tiny = real * 8e-7;
    double large = real * 8e20;
    double infinite = -real / (seed - 1);
    double not_a_number = infinite - infinite;
    double third = real * 8 / 3;
    float tenth = single / 5;
    long double minus = -quad;
    _Complex double z;
    _Complex float w;
    __fp16 half;
    Float4 lanes = {single, -single, single * 3, 0};
    Short8 shorts = {(int16_t)seed, -2, 3, -4, 5, -6, 7, (int16_t)(seed * -8)};
    enum Color color = (enum Color)(seed * 5);
    enum Color odd = (enum Color)(seed * 17);
    enum Level level = (enum Level)(seed * -3);
    enum Level odd_level = (enum Level)(seed * -2);
    enum Wide wide = seed ? WIDE_LARGE : WIDE_SMALL;
    struct Line line = {{seed, 2}, {-3, seed * 4}, RED};
    uint16_t half_bits = (uint16_t)(seed * 0xbe00);
    __real__ z = real;
    __imag__ z = real * -20;
    __real__ w = single;
    __imag__ w = single * 4;
    __builtin_memcpy(&half, &half_bits, sizeof half);
    show_float32("floats.single", single);
    show_float64("floats.real", real);
    show_float128("floats.quad", &quad);
    show_float64("floats.tiny", tiny);
    show_float64("floats.large", large);
    show_float64("floats.infinite", infinite);
    show_float64("floats.not_a_number", not_a_number);
    show_float64("floats.third", third);
    show_float32("floats.tenth", tenth);
    show_float128("floats.minus", &minus);
    show_complex("floats.z", __real__ z, __imag__ z);
    show_complex("floats.w", __real__ w, __imag__ w);
    show_float16("floats.half", &half);
    show_floats("floats.lanes", (const float *)&lanes, 4);
    show_shorts("floats.shorts", (const int16_t *)&shorts, 8);
    show_color("floats.color", color);
    show_color("floats.odd", odd);
    show_level("floats.level", level);
    show_level("floats.odd_level", odd_level);
    show_wide("floats.wide", wide);
    show_line("floats.line", &line);
    show_unsigned("floats.half_bits", half_bits);
    struct Point point = {seed * 31, seed * -32};
    union Number number = {.real = seed_float * 6.25f};
    struct Single wrapped = {real * 18};
    show_point("floats.point", &point);
    show_number("floats.number", &number);
    show_single("floats.wrapped", &wrapped);
    return aggregates(point, &line, number, wrapped) + (int)tenth + line.to.x + (int)lanes[2];
}

static NOINLINE int integers(int8_t i8, uint8_t u8, int16_t i16, uint16_t u16, int32_t i32) {
    uint32_t u32 = 4000000000u - (uint32_t)seed;
    int64_t i64 = INT64_MIN + seed;
    uint64_t u64 = UINT64_MAX - (uint64_t)seed;
    __int128 i128 = -((__int128)i64 << 60 ^ seed);
    unsigned __int128 u128 = ~(unsigned __int128)0 - (unsigned)seed;
    __int128 small128 = seed * -5;
    long word = seed * -100000L;
    unsigned long uword = (unsigned long)seed * 100000;
    size_t size = (size_t)seed * 24;
    bool yes = seed > 0;
    bool no = seed < 0;
    char letter = (char)('p' + seed);
    char quote = (char)('\'' * seed);
    char newline = (char)('\n' * seed);
    char zero = (char)(seed - 1);
    char high = (char)(seed * 0xfe);
    signed char signed_char = (signed char)(seed * -65);
    unsigned char unsigned_char = (unsigned char)(seed * 65);
    _Atomic int atomic = seed * 19;
    wchar_t wchar = seed * 955;
    register int in_register = seed * 3;
    const int constant = seed * 4;
    volatile short unstable = (short)(seed * -6);
    show_signed("integers.i8", i8);
    show_unsigned("integers.u8", u8);
    show_signed("integers.i16", i16);
    show_unsigned("integers.u16", u16);
    show_signed("integers.i32", i32);
    show_unsigned("integers.u32", u32);
    show_signed("integers.i64", i64);
    show_unsigned("integers.u64", u64);
    show_signed128("integers.i128", &i128);
    show_unsigned128("integers.u128", &u128);
    show_signed128("integers.small128", &small128);
    show_signed("integers.word", word);
    show_unsigned("integers.uword", uword);
    show_unsigned("integers.size", size);
    show_truth("integers.yes", yes);
    show_truth("integers.no", no);
    show_char("integers.letter", (unsigned char)letter);
    show_char("integers.quote", (unsigned char)quote);
    show_char("integers.newline", (unsigned char)newline);
    show_char("integers.zero", (unsigned char)zero);
    show_char("integers.high", (unsigned char)high);
    show_signed("integers.signed_char", signed_char);
    show_unsigned("integers.unsigned_char", unsigned_char);
    show_signed("integers.atomic", atomic);
    show_signed("integers.wchar", wchar);
    show_signed("integers.in_register", in_register);
    show_signed("integers.constant", constant);
    show_signed("integers.unstable", unstable);
    return floats(seed_float * 2.5f, seed_double, seed_quad) + i8 + i32 + letter;
}

static NOINLINE void fill_statics(void) {
    tally = seed * 1234;
    total = (uint64_t)seed << 40;
    origin.x = seed * 10;
    origin.y = seed * -20;
    table[0] = 1;
    table[1] = (int16_t)(seed * -2);
    table[2] = 3;
    title = "statics \xe2\x82\xac";
    tally_pointer = &tally;
    paint = (enum Color)(seed * 6);
    factor = seed_double * 20;
    __builtin_memcpy(code, "X-1\0Z", 6);
    code[0] = (char)('x' + seed);
    first_node.value = (int16_t)(seed * 5);
    first_node.label = title;
    head = &first_node;
    ready = seed > 0;
}

__attribute__((export_name("_start"))) void _start(void) {
    fill_statics();
    integers((int8_t)(seed * -100), (uint8_t)(seed * 250), (int16_t)(seed * -30000),
             (uint16_t)(seed * 60000), seed * -2000000000);
}
