// Variables of many Zig types. Every function writes each of its variables as
// FUNCTION.NAME = TEXT and calls the next one; the innermost one traps.

/// A failed check traps; the text of a panic would need much of the library.
pub const panic = @import("std").debug.no_panic;

const Name = [*:0]const u8;

extern var seed: i32;
extern var seed_float: f32;
extern var seed_double: f64;
extern fn begin(name: Name) void;
extern fn end() void;
extern fn put_raw(text: Name) void;
extern fn put_signed(value: i64) void;
extern fn put_unsigned(value: u64) void;
extern fn put_signed128(value: *const anyopaque) void;
extern fn put_unsigned128(value: *const anyopaque) void;
extern fn put_truth(value: i32) void;
extern fn put_float16(value: *const anyopaque) void;
extern fn put_float32(value: f32) void;
extern fn put_float64(value: f64) void;
extern fn put_float128(value: *const anyopaque) void;
extern fn put_address(address: ?*const anyopaque) void;
extern fn put_quoted(text: [*]const u8, length: usize) void;
extern fn show_signed(name: Name, value: i64) void;
extern fn show_unsigned(name: Name, value: u64) void;
extern fn show_truth(name: Name, value: i32) void;
extern fn show_float32(name: Name, value: f32) void;
extern fn show_float64(name: Name, value: f64) void;

fn one() i32 {
    return @as(*volatile i32, &seed).*;
}

fn int(comptime T: type, factor: T) T {
    return @as(T, @intCast(one())) *% factor;
}

fn half() f32 {
    return @as(*volatile f32, &seed_float).*;
}

fn eighth() f64 {
    return @as(*volatile f64, &seed_double).*;
}

fn isTrue() bool {
    return one() > 0;
}

// Writes a value by its type. Within the target of a pointer, pointers are
// written as addresses only.
fn put(comptime T: type, value: *const T, is_target: bool) void {
    switch (@typeInfo(T)) {
        .int => |info| if (info.bits > 64) {
            if (info.signedness == .signed) {
                put_signed128(&@as(i128, value.*));
            } else {
                put_unsigned128(&@as(u128, value.*));
            }
        } else if (info.signedness == .signed) {
            put_signed(value.*);
        } else {
            put_unsigned(value.*);
        },
        .bool => put_truth(@intFromBool(value.*)),
        .float => |info| switch (info.bits) {
            16 => put_float16(value),
            32 => put_float32(value.*),
            64 => put_float64(value.*),
            80 => {
                // The same value with a longer fraction and an implied first bit.
                const bits: u80 = @bitCast(value.*);
                const wide = @as(u128, bits >> 64) << 112 | @as(u128, bits << 17 >> 17) << 49;
                put_float128(&wide);
            },
            else => put_float128(value),
        },
        .@"enum" => put_raw(@tagName(value.*)),
        .array => |info| putItems(info.child, value, is_target),
        .vector => |info| {
            const array: [info.len]info.child = value.*;
            putItems(info.child, &array, is_target);
        },
        .pointer => |info| switch (info.size) {
            .slice => if (info.child == u8) {
                put_quoted(value.ptr, value.len);
            } else {
                putItems(info.child, value.*, is_target);
            },
            else => putPointer(info.child, value.*, is_target),
        },
        .optional => |info| if (value.*) |*payload| {
            put(info.child, payload, is_target);
        } else {
            put_raw("null");
        },
        .error_union => |info| if (value.*) |*payload| {
            put(info.payload, payload, is_target);
        } else |fault| {
            put_raw("error.");
            put_raw(@errorName(fault));
        },
        .void => put_raw("{}"),
        .@"struct" => T.show(value, is_target),
        .@"union" => T.show(value, is_target),
        else => @compileError("no text for " ++ @typeName(T)),
    }
}

fn putItems(comptime T: type, items: []const T, is_target: bool) void {
    put_raw("[");
    for (items, 0..) |*item, i| {
        put_raw(if (i == 0) "" else ", ");
        put(T, item, is_target);
    }
    put_raw("]");
}

fn putPointer(comptime T: type, target: *const T, is_target: bool) void {
    put_address(@ptrCast(target));
    if (!is_target and @typeInfo(T) != .@"fn") {
        put_raw(" -> ");
        put(T, target, true);
    }
}

noinline fn show(name: Name, comptime T: type, value: *const T) void {
    begin(name);
    put(T, value, false);
    end();
}

fn field(label: Name, comptime T: type, value: T) void {
    put_raw(label);
    put(T, &value, true);
}

const Point = struct {
    x: i32,
    y: i32,

    fn show(point: *const Point, _: bool) void {
        field("{x = ", i32, point.x);
        field(", y = ", i32, point.y);
        put_raw("}");
    }
};

const Mode = enum { off, slow, fast };
const Level = enum(i16) { low = -300, middle = 0, high = 1000 };
const Fault = error{ Missing, Broken, TooLong };

const Line = struct {
    from: Point,
    to: Point,
    mode: Mode,

    fn show(line: *const Line, _: bool) void {
        field("{from = ", Point, line.from);
        field(", to = ", Point, line.to);
        field(", mode = ", Mode, line.mode);
        put_raw("}");
    }
};

// Described in the order of memory, where the larger fields are first.
const Sorted = struct {
    small: u8,
    large: u64,
    name: []const u8,
    link: ?*const Point,

    fn show(sorted: *const Sorted, is_target: bool) void {
        field("{large = ", u64, sorted.large);
        put_raw(", name = ");
        put([]const u8, &sorted.name, is_target);
        put_raw(", link = ");
        put(?*const Point, &sorted.link, is_target);
        field(", small = ", u8, sorted.small);
        put_raw("}");
    }
};

const External = extern struct {
    tag: u8,
    number: i16,
    real: f64,

    fn show(external: *const External, _: bool) void {
        field("{tag = ", u8, external.tag);
        field(", number = ", i16, external.number);
        field(", real = ", f64, external.real);
        put_raw("}");
    }
};

const Bits = packed struct(u32) {
    low: u3,
    middle: i5,
    on: bool,
    crossing: u13,
    level: u2,
    rest: i8,

    // Described as one number.
    fn show(bits: *const Bits, _: bool) void {
        field("{bits = ", u32, @bitCast(bits.*));
        put_raw("}");
    }
};

const Figure = union(enum) {
    circle: f64,
    rect: Point,
    code: u8,
    empty,

    fn show(figure: *const Figure, is_target: bool) void {
        switch (figure.*) {
            .empty => put_raw("empty"),
            inline else => |*payload, tag| {
                put_raw(@tagName(tag));
                put_raw("(");
                put(@TypeOf(payload.*), payload, is_target);
                put_raw(")");
            },
        }
    }
};

const Number = extern union {
    integer: u32,
    real: f32,

    fn show(number: *const Number, _: bool) void {
        field("{integer = ", u32, number.integer);
        field(", real = ", f32, number.real);
        put_raw("}");
    }
};

var tally: i32 = 0;
var total: u64 = 0;
var title: []const u8 = "";
var table: [3]i16 = .{ 0, 0, 0 };
var origin: Point = .{ .x = 0, .y = 0 };
var choice: ?u16 = null;
var shape: Figure = .empty;
pub var public: Mode = .off;

const inner = struct {
    var count: i32 = 0;
};

fn fillStatics() void {
    tally = int(i32, 1234);
    total = int(u64, 1 << 40);
    title = "statics \u{20ac}";
    table = .{ 1, int(i16, -2), 3 };
    origin = .{ .x = int(i32, 10), .y = int(i32, -20) };
    choice = int(u16, 77);
    shape = .{ .circle = eighth() * 20 };
    public = if (isTrue()) .fast else .slow;
    inner.count = int(i32, 4321);
}

noinline fn showStatics() void {
    show("::seed", i32, &seed);
    show("::seed_float", f32, &seed_float);
    show("::seed_double", f64, &seed_double);
    show("::tally", i32, &tally);
    show("::total", u64, &total);
    show("::title", []const u8, &title);
    show("::table", [3]i16, &table);
    show("::origin", Point, &origin);
    show("::choice", ?u16, &choice);
    show("::shape", Figure, &shape);
    show("::public", Mode, &public);
    show("::count", i32, &inner.count);
}

noinline fn innermost(level: u32, point: *Point) i32 {
    const state = struct {
        var calls: i32 = 40;
    };
    const product = @as(i32, @intCast(level)) * -7;
    state.calls += one();
    point.x += one();
    show_unsigned("innermost.level", level);
    show("innermost.point", *Point, &point);
    show("::calls", i32, &state.calls);
    show_signed("innermost.product", product);
    {
        var scaled = eighth() * @as(f64, @floatFromInt(level));
        _ = &scaled;
        show("innermost.scaled", f64, &scaled);
        showStatics();
        if (isTrue()) @trap();
        return product + @as(i32, @intFromFloat(scaled));
    }
}

fn twice(number: i32) i32 {
    return number * 2 * one();
}

fn copy(point: Point) Point {
    return .{ .x = point.x * one(), .y = point.y };
}

noinline fn pointers(line: *const Line, number: *i32, callback: *const fn (i32) i32) i32 {
    var value: i64 = int(i64, -1_000_000_000_000);
    const pointer = &value;
    var octet: u8 = int(u8, 200);
    const octet_pointer: *const u8 = &octet;
    var link = number;
    const link_pointer = &link;
    var array = [_]i32{ one(), 20, 30 };
    const array_pointer = &array;
    const inside = &line.to;
    var tagged = Figure{ .rect = .{ .x = one(), .y = 9 } };
    const tagged_pointer = &tagged;
    var optional: ?u16 = int(u16, 5);
    const optional_pointer = &optional;
    var sorted = Sorted{ .small = int(u8, 3), .large = 1 << 50, .name = "sorted", .link = inside };
    _ = .{ &octet, &link, &array, &tagged, &optional, &sorted, &value };
    show("pointers.line", *const Line, &line);
    show("pointers.number", *i32, &number);
    show("pointers.callback", *const fn (i32) i32, &callback);
    show("pointers.value", i64, &value);
    show("pointers.pointer", *i64, &pointer);
    show("pointers.octet", u8, &octet);
    show("pointers.octet_pointer", *const u8, &octet_pointer);
    show("pointers.link", *i32, &link);
    show("pointers.link_pointer", **i32, &link_pointer);
    show("pointers.array", [3]i32, &array);
    show("pointers.array_pointer", *[3]i32, &array_pointer);
    show("pointers.inside", *const Point, &inside);
    show("pointers.tagged", Figure, &tagged);
    show("pointers.tagged_pointer", *Figure, &tagged_pointer);
    show("pointers.optional", ?u16, &optional);
    show("pointers.optional_pointer", *?u16, &optional_pointer);
    show("pointers.sorted", Sorted, &sorted);
    // The innermost function changes a copy that has no name here.
    var point = Point{ .x = int(i32, 23), .y = 4 };
    _ = &point;
    show("pointers.point", Point, &point);
    return innermost(int(u32, 4), @constCast(&copy(point))) + callback(number.*);
}

inline fn mixed_in(amount: i32) i32 {
    const doubled = amount * 2 + one();
    show_signed("mixed_in.amount", amount);
    show_signed("mixed_in.doubled", doubled);
    return pointers(
        &.{ .from = .{ .x = doubled, .y = one() }, .to = .{ .x = amount, .y = 3 }, .mode = .slow },
        &tally,
        &twice,
    ) + doubled + amount;
}

noinline fn options(some: ?i32, none: ?i32, link: ?*const Point, outcome: Fault!u8, text: ?[]const u8) i32 {
    var no_link: ?*const Point = if (isTrue()) null else link;
    var failure: Fault!u8 = if (isTrue()) error.Broken else 1;
    var any: anyerror!i32 = int(i32, 17);
    var any_failure: anyerror!i32 = if (isTrue()) error.Unheard else 1;
    var done: Fault!Point = .{ .x = one(), .y = 2 };
    var no_text: ?[]const u8 = if (isTrue()) null else text;
    var truth: ?bool = isTrue();
    var no_truth: ?bool = if (isTrue()) null else true;
    var both: ??u8 = int(u8, 5);
    var outer_only: ??u8 = @as(?u8, if (isTrue()) null else 1);
    var neither: ??u8 = if (isTrue()) null else @as(?u8, null);
    var point: ?Point = .{ .x = int(i32, 7), .y = -8 };
    var mode: ?Mode = if (isTrue()) .slow else null;
    var float: ?f64 = eighth() * 4;
    var list: ?[2]u16 = .{ int(u16, 3), 4 };
    _ = .{ &no_link, &failure, &any, &any_failure, &done, &no_text, &truth, &no_truth, &both };
    _ = .{ &outer_only, &neither, &point, &mode, &float, &list };
    show("options.some", ?i32, &some);
    show("options.none", ?i32, &none);
    show("options.link", ?*const Point, &link);
    show("options.outcome", Fault!u8, &outcome);
    show("options.text", ?[]const u8, &text);
    show("options.no_link", ?*const Point, &no_link);
    show("options.failure", Fault!u8, &failure);
    show("options.any", anyerror!i32, &any);
    show("options.any_failure", anyerror!i32, &any_failure);
    show("options.done", Fault!Point, &done);
    show("options.no_text", ?[]const u8, &no_text);
    show("options.truth", ?bool, &truth);
    show("options.no_truth", ?bool, &no_truth);
    show("options.both", ??u8, &both);
    show("options.outer_only", ??u8, &outer_only);
    show("options.neither", ??u8, &neither);
    show("options.point", ?Point, &point);
    show("options.mode", ?Mode, &mode);
    show("options.float", ?f64, &float);
    show("options.list", ?[2]u16, &list);
    return mixed_in(int(i32, 20)) + (some orelse 0);
}

noinline fn compounds(point: Point, text: []const u8, list: []i32, mode: Mode, tagged: Figure) i32 {
    var line = Line{ .from = point, .to = .{ .x = one(), .y = 2 }, .mode = .fast };
    var level: Level = if (isTrue()) .low else .high;
    var bits = Bits{ .low = int(u3, 5), .middle = -9, .on = true, .crossing = 5000, .level = 2, .rest = -100 };
    var external = External{ .tag = int(u8, 9), .number = -2, .real = eighth() };
    var array = [_]i32{ 1, -2, int(i32, 3) };
    var matrix = [2][2]u8{ .{ 1, 2 }, .{ 3, int(u8, 4) } };
    var points = [_]Point{ .{ .x = one(), .y = 2 }, .{ .x = 3, .y = 4 } };
    var lanes: @Vector(4, f32) = .{ half(), half() * -3, 2, 0 };
    var rect = Figure{ .rect = .{ .x = int(i32, 5), .y = 6 } };
    var code = Figure{ .code = int(u8, 250) };
    var empty: Figure = if (isTrue()) .empty else .{ .code = 1 };
    var number = Number{ .real = half() * 6.25 };
    var part = list[1..];
    var words = [_][]const u8{ "a", "\u{2603}\n" };
    var nothing: []const u8 = text[0..0];
    _ = .{ &line, &level, &bits, &external, &array, &matrix, &points, &lanes, &rect, &code, &empty };
    _ = .{ &number, &part, &words, &nothing };
    show("compounds.point", Point, &point);
    show("compounds.text", []const u8, &text);
    show("compounds.list", []i32, &list);
    show("compounds.mode", Mode, &mode);
    show("compounds.tagged", Figure, &tagged);
    show("compounds.line", Line, &line);
    show("compounds.level", Level, &level);
    show("compounds.bits", Bits, &bits);
    show("compounds.external", External, &external);
    show("compounds.array", [3]i32, &array);
    show("compounds.matrix", [2][2]u8, &matrix);
    show("compounds.points", [2]Point, &points);
    show("compounds.lanes", @Vector(4, f32), &lanes);
    show("compounds.rect", Figure, &rect);
    show("compounds.code", Figure, &code);
    show("compounds.empty", Figure, &empty);
    show("compounds.number", Number, &number);
    show("compounds.part", []i32, &part);
    show("compounds.words", [2][]const u8, &words);
    show("compounds.nothing", []const u8, &nothing);
    return options(int(i32, 5), if (isTrue()) null else 1, &point, int(u8, 200), "optional") + array[2];
}

noinline fn numbers(i8_: i8, u8_: u8, i16_: i16, u16_: u16, i32_: i32) i32 {
    var u32_ = 4_000_000_000 - int(u32, 1);
    var i64_ = -0x8000_0000_0000_0000 + int(i64, 1);
    var u64_ = 0xffff_ffff_ffff_ffff - int(u64, 1);
    var i128_ = @as(i128, one()) << 100 | 12345;
    var u128_ = ~@as(u128, 0) ^ int(u8, 1);
    var u7_: u7 = int(u7, 100);
    var i5_: i5 = int(i5, -13);
    var u24_: u24 = int(u24, 0xabcdef);
    var i48_: i48 = int(i48, -123_456_789_012);
    var usize_: usize = int(usize, 100_000);
    var isize_: isize = int(isize, -100_000);
    var u1_: u1 = int(u1, 1);
    var yes = isTrue();
    var no = !isTrue();
    var f16_: f16 = @bitCast(int(u16, 0xbe00));
    var f32_ = half() / 5;
    var f64_ = eighth() * 8.0 / 3.0;
    var f80_: f80 = @bitCast(@as(u80, int(u64, 0xa000_0000_0000_0000)) | 0x4000 << 64);
    var f128_: f128 = @bitCast(@as(u128, int(u64, 0x3fff_8000_0000_0000)) << 64);
    _ = .{ &u32_, &i64_, &u64_, &i128_, &u128_, &u7_, &i5_, &u24_, &i48_, &usize_, &isize_, &u1_ };
    _ = .{ &yes, &no, &f16_, &f32_, &f64_, &f80_, &f128_ };
    show_signed("numbers.i8_", i8_);
    show_unsigned("numbers.u8_", u8_);
    show_signed("numbers.i16_", i16_);
    show_unsigned("numbers.u16_", u16_);
    show_signed("numbers.i32_", i32_);
    show_unsigned("numbers.u32_", u32_);
    show_signed("numbers.i64_", i64_);
    show_unsigned("numbers.u64_", u64_);
    show("numbers.i128_", i128, &i128_);
    show("numbers.u128_", u128, &u128_);
    show_unsigned("numbers.u7_", u7_);
    show_signed("numbers.i5_", i5_);
    show_unsigned("numbers.u24_", u24_);
    show_signed("numbers.i48_", i48_);
    show_unsigned("numbers.usize_", usize_);
    show_signed("numbers.isize_", isize_);
    show_unsigned("numbers.u1_", u1_);
    show_truth("numbers.yes", @intFromBool(yes));
    show_truth("numbers.no", @intFromBool(no));
    show("numbers.f16_", f16, &f16_);
    show_float32("numbers.f32_", f32_);
    show_float64("numbers.f64_", f64_);
    show("numbers.f80_", f80, &f80_);
    show("numbers.f128_", f128, &f128_);
    var list = [_]i32{ one(), 20, 30 };
    show("numbers.list", [3]i32, &list);
    const point = Point{ .x = int(i32, 31), .y = int(i32, -32) };
    show("numbers.point", Point, &point);
    return compounds(point, "text \u{e9}\t", &list, if (isTrue()) .fast else .off, .{ .circle = eighth() * 16 }) + i32_;
}

pub export fn _start() void {
    fillStatics();
    _ = numbers(
        int(i8, -100),
        int(u8, 250),
        int(i16, -30000),
        int(u16, 60000),
        int(i32, -2_000_000_000),
    );
}
