// Variables of many C++ types. Every function writes each of its variables as
// FUNCTION.NAME = TEXT and calls the next one; the innermost one traps.
#include <stddef.h>
#include <stdint.h>

#include "print.h"

#define NOINLINE __attribute__((noinline))
// Output functions are never on the stack at the trap: they need no description.
#define HELPER static __attribute__((noinline, nodebug))

using Null = decltype(nullptr);

enum class Mode : uint8_t { Off, Slow = 3, Fast };
enum class Signed : int64_t { Under = -5000000000, Over = 5000000000 };
enum Plain { PLAIN_A = 1, PLAIN_B };

struct Vec2 {
    float x;
    float y;
};

class Account {
public:
    explicit Account(int32_t start) : balance(start), id(start * 10), open(seed > 0) {}
    NOINLINE int close(int amount);
    NOINLINE static int audit(const Account &account, int limit);

private:
    friend void put_account(const Account &account);
    static int count;
    int32_t balance;

protected:
    const uint16_t id;
    bool open;
};

struct Base {
    int32_t base_value;
    enum Kind { Small, Big } kind;
};

struct Second {
    double second_value;
};

struct Derived : Base {
    int32_t derived_value;
};

struct Both : Derived, private Second {
    Both(int32_t value) : Derived{{value, Big}, value * 2}, Second{value * 0.5}, both(value * 3) {}
    friend void put_both(const Both &both);
    int16_t both;
};

class Shape {
public:
    Shape(int32_t sides) : sides(sides) {}
    virtual int area(int scale) { return sides * scale; }
    int32_t sides;
};

class Square : public Shape {
public:
    Square(int32_t edge, const char *label) : Shape(4), edge(edge), label(label) {}
    NOINLINE int area(int scale) override;
    int32_t edge;
    const char *label;
};

class Named {
public:
    Named(int8_t mark) : mark(mark) {}
    virtual int name() { return mark; }
    int8_t mark;
};

class Tile : public Square, public Named {
public:
    Tile(int32_t edge, int8_t mark) : Square(edge, "tile"), Named(mark) {}
    int name() override { return mark + 1; }
    Mode mode = Mode::Fast;
};

template <typename First, typename Other> struct Pair {
    First first;
    Other second;
};

template <typename T, size_t N> struct Fixed {
    T items[N];
    size_t size() const { return N; }
};

struct Holder {
    int32_t &target;
    const Vec2 *vector;
    Null nothing;
    static int32_t shared;
};

union Either {
    int32_t number;
    char letter;
};

struct Flags {
    Mode mode : 3;
    bool set : 1;
    uint16_t rest : 9;
    Plain plain : 4;
};

struct Counted {
    using Value = int32_t;
    Value value;
    struct Inner {
        Value deep;
        Pair<int, double> pair;
    } inner;
};

struct Nothing {};

struct OnNothing : Nothing {
    int32_t something;
};

namespace ns {
int32_t counter;
static Vec2 corner;
inline namespace v1 {
Mode mode;
}
namespace deep {
static Pair<int, double> pair;
}
} // namespace ns

namespace {
int32_t hidden;
}

int Account::count;
int32_t Holder::shared;
static int32_t plain_static;
int32_t &alias = plain_static;

HELPER void put_mode(Mode mode) {
    put_raw(mode == Mode::Off ? "Off" : mode == Mode::Slow ? "Slow" : "Fast");
}

HELPER void put_plain(Plain plain) {
    if (plain == PLAIN_A)
        put_raw("PLAIN_A");
    else if (plain == PLAIN_B)
        put_raw("PLAIN_B");
    else
        put_unsigned(plain);
}

HELPER void show_mode(const char *name, Mode mode) {
    begin(name);
    put_mode(mode);
    end();
}

HELPER void show_sign(const char *name, Signed value) {
    show_raw(name, value == Signed::Under ? "Under" : "Over");
}

HELPER void show_plain(const char *name, Plain plain) {
    begin(name);
    put_plain(plain);
    end();
}

HELPER void put_vec(const Vec2 &vec) {
    put_raw("{x = ");
    put_float32(vec.x);
    put_raw(", y = ");
    put_float32(vec.y);
    put_raw("}");
}

HELPER void show_vec(const char *name, const Vec2 &vec) {
    begin(name);
    put_vec(vec);
    end();
}

HELPER void put_arrow(const volatile void *address) {
    put_address(address);
    put_raw(" -> ");
}

HELPER void show_vec_at(const char *name, const Vec2 *vec) {
    begin(name);
    put_arrow(vec);
    put_vec(*vec);
    end();
}

HELPER void show_int_at(const char *name, const int32_t *target) {
    begin(name);
    put_arrow(target);
    put_signed(*target);
    end();
}

__attribute__((noinline, nodebug)) void put_account(const Account &account) {
    put_raw("{balance = ");
    put_signed(account.balance);
    put_raw(", id = ");
    put_unsigned(account.id);
    put_raw(", open = ");
    put_truth(account.open);
    put_raw("}");
}

HELPER void show_account(const char *name, const Account &account) {
    begin(name);
    put_account(account);
    end();
}

HELPER void show_account_at(const char *name, const Account *account) {
    begin(name);
    put_arrow(account);
    put_account(*account);
    end();
}

HELPER void put_base(const Base &base) {
    put_raw("{base_value = ");
    put_signed(base.base_value);
    put_raw(base.kind == Base::Small ? ", kind = Small}" : ", kind = Big}");
}

HELPER void show_base(const char *name, const Base &base) {
    begin(name);
    put_base(base);
    end();
}

HELPER void put_derived(const Derived &derived) {
    put_raw("{Base = ");
    put_base(derived);
    put_raw(", derived_value = ");
    put_signed(derived.derived_value);
    put_raw("}");
}

HELPER void show_derived_at(const char *name, const Derived *derived) {
    begin(name);
    put_arrow(derived);
    put_derived(*derived);
    end();
}

__attribute__((noinline, nodebug)) void put_both(const Both &both) {
    put_raw("{Derived = ");
    put_derived(both);
    put_raw(", Second = {second_value = ");
    put_float64(both.second_value);
    put_raw("}, both = ");
    put_signed(both.both);
    put_raw("}");
}

HELPER void show_both(const char *name, const Both &both) {
    begin(name);
    put_both(both);
    end();
}

// The first word of an object with virtual functions.
HELPER void put_vptr(const char *class_name, const void *object) {
    const void *pointer = *static_cast<const void *const *>(object);
    put_raw("_vptr$");
    put_raw(class_name);
    put_raw(" = ");
    put_address(pointer);
}

HELPER void put_shape(const Shape &shape) {
    put_raw("{");
    put_vptr("Shape", &shape);
    put_raw(", sides = ");
    put_signed(shape.sides);
    put_raw("}");
}

HELPER void put_square(const Square &square, bool is_target) {
    put_raw("{Shape = ");
    put_shape(square);
    put_raw(", edge = ");
    put_signed(square.edge);
    put_raw(", label = ");
    if (is_target)
        put_address(square.label);
    else
        put_cstring(square.label);
    put_raw("}");
}

HELPER void show_square(const char *name, const Square &square) {
    begin(name);
    put_square(square, false);
    end();
}

HELPER void show_square_at(const char *name, const Square *square) {
    begin(name);
    put_arrow(square);
    put_square(*square, true);
    end();
}

HELPER void show_shape_at(const char *name, const Shape *shape) {
    begin(name);
    put_arrow(shape);
    put_shape(*shape);
    end();
}

HELPER void put_named(const Named &named) {
    put_raw("{");
    put_vptr("Named", &named);
    put_raw(", mark = ");
    put_signed(named.mark);
    put_raw("}");
}

HELPER void show_named_at(const char *name, const Named *named) {
    begin(name);
    put_arrow(named);
    put_named(*named);
    end();
}

HELPER void show_tile(const char *name, const Tile &tile) {
    begin(name);
    put_raw("{Square = ");
    put_square(tile, false);
    put_raw(", Named = ");
    put_named(tile);
    put_raw(", mode = ");
    put_mode(tile.mode);
    put_raw("}");
    end();
}

HELPER void put_pair(const Pair<int, double> &pair) {
    put_raw("{first = ");
    put_signed(pair.first);
    put_raw(", second = ");
    put_float64(pair.second);
    put_raw("}");
}

HELPER void show_pair(const char *name, const Pair<int, double> &pair) {
    begin(name);
    put_pair(pair);
    end();
}

HELPER void show_pair_at(const char *name, const Pair<int, double> *pair) {
    begin(name);
    put_arrow(pair);
    put_pair(*pair);
    end();
}

HELPER void show_chain(const char *name, const Pair<char, Pair<bool, Mode>> &pair) {
    begin(name);
    put_raw("{first = ");
    put_char(static_cast<unsigned char>(pair.first));
    put_raw(", second = {first = ");
    put_truth(pair.second.first);
    put_raw(", second = ");
    put_mode(pair.second.second);
    put_raw("}}");
    end();
}

HELPER void show_fixed(const char *name, const Fixed<int16_t, 3> &fixed) {
    begin(name);
    put_raw("{items = [");
    for (size_t i = 0; i < fixed.size(); i++) {
        put_raw(i ? ", " : "");
        put_signed(fixed.items[i]);
    }
    put_raw("]}");
    end();
}

HELPER void show_holder(const char *name, const Holder &holder) {
    begin(name);
    put_raw("{target = ");
    put_arrow(&holder.target);
    put_signed(holder.target);
    put_raw(", vector = ");
    put_arrow(holder.vector);
    put_vec(*holder.vector);
    put_raw(", nothing = 0x0}");
    end();
}

HELPER void show_holder_at(const char *name, const Holder *holder) {
    begin(name);
    put_arrow(holder);
    put_raw("{target = ");
    put_address(&holder->target);
    put_raw(", vector = ");
    put_address(holder->vector);
    put_raw(", nothing = 0x0}");
    end();
}

HELPER void show_either(const char *name, const Either &either) {
    begin(name);
    put_raw("{number = ");
    put_signed(either.number);
    put_raw(", letter = ");
    put_char(static_cast<unsigned char>(either.letter));
    put_raw("}");
    end();
}

HELPER void show_flags(const char *name, const Flags &flags) {
    begin(name);
    put_raw("{mode = ");
    put_mode(flags.mode);
    put_raw(", set = ");
    put_truth(flags.set);
    put_raw(", rest = ");
    put_unsigned(flags.rest);
    put_raw(", plain = ");
    put_plain(flags.plain);
    put_raw("}");
    end();
}

HELPER void show_counted(const char *name, const Counted &counted) {
    begin(name);
    put_raw("{value = ");
    put_signed(counted.value);
    put_raw(", inner = {deep = ");
    put_signed(counted.inner.deep);
    put_raw(", pair = ");
    put_pair(counted.inner.pair);
    put_raw("}}");
    end();
}

HELPER void show_on_nothing(const char *name, const OnNothing &value) {
    begin(name);
    put_raw("{Nothing = {}, something = ");
    put_signed(value.something);
    put_raw("}");
    end();
}

HELPER void show_array_at(const char *name, const int32_t (&array)[2]) {
    begin(name);
    put_arrow(&array);
    put_raw("[");
    put_signed(array[0]);
    put_raw(", ");
    put_signed(array[1]);
    put_raw("]");
    end();
}

HELPER void show_unicodes(const char *name, const char16_t *units, int count) {
    begin(name);
    put_raw("[");
    for (int i = 0; i < count; i++) {
        put_raw(i ? ", " : "");
        put_unicode(units[i]);
    }
    put_raw("]");
    end();
}

HELPER void show_pointer_at(const char *name, const void *address, const void *target) {
    begin(name);
    put_arrow(address);
    put_address(target);
    end();
}

HELPER void show_statics() {
    show_signed("::ns::counter", ns::counter);
    show_vec("::ns::corner", ns::corner);
    show_mode("::ns::v1::mode", ns::mode);
    show_pair("::ns::deep::pair", ns::deep::pair);
    show_signed("::(anonymous namespace)::hidden", hidden);
    show_signed("::Holder::shared", Holder::shared);
    show_signed("::plain_static", plain_static);
    show_int_at("::alias", &alias);
}

HELPER void show_count(int count) {
    show_signed("::Account::count", count);
}

int Account::audit(const Account &account, int limit) {
    static Counted seen = {1, {2, {3, 4.5}}};
    struct Local {
        int8_t small;
        const Account *owner;
    } local = {static_cast<int8_t>(limit - 100), &account};
    int depth = limit * 2;
    seen.inner.deep += limit;
    show_account_at("audit.account", &account);
    show_signed("audit.limit", limit);
    show_counted("audit.seen", seen);
    begin("audit.local");
    put_raw("{small = ");
    put_signed(local.small);
    put_raw(", owner = ");
    put_arrow(local.owner);
    put_account(*local.owner);
    put_raw("}");
    end();
    show_signed("audit.depth", depth);
    {
        bool depth = limit > 4;
        auto add = [limit, &local](int more) { return limit + local.small + more; };
        show_truth("audit.depth", depth);
        begin("audit.add");
        put_raw("{limit = ");
        put_signed(limit);
        put_raw(", local = ");
        put_arrow(&local);
        put_raw("{small = ");
        put_signed(local.small);
        put_raw(", owner = ");
        put_address(local.owner);
        put_raw("}}");
        end();
        show_count(count);
        show_statics();
        if (seed)
            __builtin_trap();
        return add(depth) + account.balance;
    }
}

int Account::close(int amount) {
    int32_t before = balance + amount;
    Account copy(before);
    Account *self = this;
    show_account_at("close.this", this);
    show_signed("close.amount", amount);
    show_signed("close.before", before);
    show_account("close.copy", copy);
    show_account_at("close.self", self);
    return audit(*this, amount) + before + copy.balance;
}

inline __attribute__((always_inline)) int mixed_in(Account &account, int amount) {
    int32_t tripled = amount * 3 + seed;
    show_account_at("mixed_in.account", &account);
    show_signed("mixed_in.amount", amount);
    show_signed("mixed_in.tripled", tripled);
    return account.close(tripled) + tripled + amount;
}

int Square::area(int scale) {
    int32_t result = edge * edge * scale;
    Shape *shape = this;
    Account account(result);
    show_square_at("area.this", this);
    show_signed("area.scale", scale);
    show_signed("area.result", result);
    show_shape_at("area.shape", shape);
    show_account("area.account", account);
    return mixed_in(account, scale) + result + shape->sides;
}

NOINLINE int classes(Vec2 vec, const Both &given, Shape *shape, Pair<int, double> pair) {
    Account account(seed * 500);
    Base base = {seed * 8, Base::Small};
    Both both(seed * 20);
    const Derived *derived = &both;
    Square square(seed * 6, "square \xc3\xa9");
    Tile tile(seed * 7, static_cast<int8_t>(seed * -8));
    Named *named = &tile;
    Pair<char, Pair<bool, Mode>> chain = {static_cast<char>('A' + seed), {seed > 0, Mode::Slow}};
    Fixed<int16_t, 3> fixed = {{1, -2, static_cast<int16_t>(seed * 300)}};
    Holder holder = {plain_static, &vec, nullptr};
    Holder *holder_pointer = &holder;
    Either either = {seed * 0x141};
    Flags flags = {Mode::Fast, true, static_cast<uint16_t>(seed * 400), PLAIN_B};
    Counted counted = {seed * 9, {seed * 10, {seed * 11, seed_double * 4}}};
    Counted::Inner *inner = &counted.inner;
    Nothing nothing;
    OnNothing on_nothing;
    on_nothing.something = seed * 66;
    show_vec("classes.vec", vec);
    begin("classes.given");
    put_arrow(&given);
    put_both(given);
    end();
    show_shape_at("classes.shape", shape);
    show_pair("classes.pair", pair);
    show_account("classes.account", account);
    show_base("classes.base", base);
    show_both("classes.both", both);
    show_derived_at("classes.derived", derived);
    show_square("classes.square", square);
    show_tile("classes.tile", tile);
    show_named_at("classes.named", named);
    show_chain("classes.chain", chain);
    show_fixed("classes.fixed", fixed);
    show_holder("classes.holder", holder);
    show_holder_at("classes.holder_pointer", holder_pointer);
    show_either("classes.either", either);
    show_flags("classes.flags", flags);
    show_counted("classes.counted", counted);
    begin("classes.inner");
    put_arrow(inner);
    put_raw("{deep = ");
    put_signed(inner->deep);
    put_raw(", pair = ");
    put_pair(inner->pair);
    put_raw("}");
    end();
    show_raw("classes.nothing", "{}");
    show_on_nothing("classes.on_nothing", on_nothing);
    (void)nothing;
    return shape->area(seed * 2) + static_cast<int>(vec.x) + named->name() + base.base_value;
}

NOINLINE int references(int32_t &number, const Vec2 &vec, Pair<int, double> &&moved, Null null,
                        Mode mode) {
    const int32_t &constant = number;
    Vec2 &&temporary = {vec.x * 2, vec.y - 1};
    int32_t array[2] = {seed * 5, seed * 6};
    int32_t(&array_reference)[2] = array;
    int32_t *pointer = &array[1];
    int32_t *&pointer_reference = pointer;
    bool yes = seed > 0;
    Mode slow = static_cast<Mode>(seed * 3);
    Signed sign = seed ? Signed::Under : Signed::Over;
    Plain plain = static_cast<Plain>(seed * 2);
    Plain odd = static_cast<Plain>(seed * 3);
    char16_t unit = static_cast<char16_t>(seed * 0xe9);
    char32_t scalar = static_cast<char32_t>(seed * 0x1f600);
    char8_t byte = static_cast<char8_t>('a' * seed);
    wchar_t wide = seed * 0x20ac;
    char16_t units[3] = {u'a', u'\u2603', static_cast<char16_t>('y' + seed)};
    auto number_lambda = [number](int more) { return number + more; };
    auto empty_lambda = [](int more) { return more; };
    int (*function)(int) = empty_lambda;
    Square square(seed * 3, "shape");
    Both both(number);
    show_int_at("references.number", &number);
    show_vec_at("references.vec", &vec);
    show_pair_at("references.moved", &moved);
    show_address("references.null", null);
    show_mode("references.mode", mode);
    show_int_at("references.constant", &constant);
    show_vec_at("references.temporary", &temporary);
    begin("references.array");
    put_raw("[");
    put_signed(array[0]);
    put_raw(", ");
    put_signed(array[1]);
    put_raw("]");
    end();
    show_array_at("references.array_reference", array_reference);
    show_int_at("references.pointer", pointer);
    show_pointer_at("references.pointer_reference", &pointer_reference, pointer);
    show_truth("references.yes", yes);
    show_mode("references.slow", slow);
    show_sign("references.sign", sign);
    show_plain("references.plain", plain);
    show_plain("references.odd", odd);
    show_unicode("references.unit", unit);
    show_unicode("references.scalar", scalar);
    show_unicode("references.byte", byte);
    show_signed("references.wide", wide);
    show_unicodes("references.units", units, 3);
    begin("references.number_lambda");
    put_raw("{number = ");
    put_signed(number_lambda(0));
    put_raw("}");
    end();
    show_raw("references.empty_lambda", "{}");
    show_address("references.function", reinterpret_cast<const void *>(function));
    show_square("references.square", square);
    show_both("references.both", both);
    return classes(vec, both, &square, moved) + constant + function(number);
}

HELPER void fill_statics() {
    ns::counter = seed * 21;
    ns::corner = {seed_float, seed_float * -3};
    ns::mode = static_cast<Mode>(seed * 4);
    ns::deep::pair = {seed * -1, seed_double};
    hidden = seed * 99;
    Holder::shared = seed * 4321;
    plain_static = seed * 1000;
}

extern "C" __attribute__((export_name("_start"))) void _start() {
    fill_statics();
    references(plain_static, {seed_float * 3, seed_float}, {seed * 7, seed_double * 3}, nullptr,
               static_cast<Mode>(seed - 1));
}
