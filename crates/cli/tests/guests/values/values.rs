// Variables of many Rust types. Every function writes each of its variables as
// FUNCTION.NAME = TEXT and calls the next one; the innermost one traps.
#![no_std]
#![allow(static_mut_refs, clippy::all)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::ffi::{c_void, CStr};
use core::num::NonZeroU32;
use core::ptr::{null, read_volatile};

mod out {
    use core::ffi::{c_char, c_void};

    unsafe extern "C" {
        pub static seed: i32;
        pub static seed_float: f32;
        pub static seed_double: f64;
        pub fn allocate(size: usize, alignment: usize) -> *mut u8;
        pub fn begin(name: *const c_char);
        pub fn end();
        pub fn put_raw(text: *const c_char);
        pub fn put_signed(value: i64);
        pub fn put_unsigned(value: u64);
        pub fn put_signed128(value: *const c_void);
        pub fn put_unsigned128(value: *const c_void);
        pub fn put_truth(value: i32);
        pub fn put_unicode(value: u32);
        pub fn put_float32(value: f32);
        pub fn put_float64(value: f64);
        pub fn put_address(address: *const c_void);
        pub fn put_quoted(text: *const u8, length: usize);
        pub fn show_signed(name: *const c_char, value: i64);
        pub fn show_unsigned(name: *const c_char, value: u64);
        pub fn show_truth(name: *const c_char, value: i32);
        pub fn show_unicode(name: *const c_char, value: u32);
        pub fn show_float32(name: *const c_char, value: f32);
        pub fn show_float64(name: *const c_char, value: f64);
    }
}

struct Heap;

unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { out::allocate(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, _pointer: *mut u8, _layout: Layout) {}
}

#[global_allocator]
static HEAP: Heap = Heap;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}

fn seed() -> i32 {
    unsafe { read_volatile(&raw const out::seed) }
}

fn seed_float() -> f32 {
    unsafe { read_volatile(&raw const out::seed_float) }
}

fn seed_double() -> f64 {
    unsafe { read_volatile(&raw const out::seed_double) }
}

// How a value is written. Within the target of a pointer, pointers are
// written as addresses only.
trait Show {
    fn put(&self, is_target: bool);
}

fn raw(text: &CStr) {
    unsafe { out::put_raw(text.as_ptr()) }
}

#[inline(never)]
fn show<T: Show>(name: &CStr, value: &T) {
    unsafe {
        out::begin(name.as_ptr());
        value.put(false);
        out::end();
    }
}

macro_rules! show_number {
    ($put:ident, $wide:ty: $($number:ty)*) => {$(
        impl Show for $number {
            fn put(&self, _is_target: bool) {
                unsafe { out::$put(*self as $wide) }
            }
        }
    )*};
}

show_number!(put_signed, i64: i8 i16 i32 i64 isize);
show_number!(put_unsigned, u64: u8 u16 u32 u64 usize);
show_number!(put_truth, i32: bool);
show_number!(put_unicode, u32: char);
show_number!(put_float32, f32: f32);
show_number!(put_float64, f64: f64);

impl Show for i128 {
    fn put(&self, _is_target: bool) {
        unsafe { out::put_signed128(self as *const i128 as *const c_void) }
    }
}

impl Show for u128 {
    fn put(&self, _is_target: bool) {
        unsafe { out::put_unsigned128(self as *const u128 as *const c_void) }
    }
}

impl Show for () {
    fn put(&self, _is_target: bool) {
        raw(c"()");
    }
}

impl Show for str {
    fn put(&self, _is_target: bool) {
        unsafe { out::put_quoted(self.as_ptr(), self.len()) }
    }
}

impl Show for String {
    fn put(&self, is_target: bool) {
        self.as_str().put(is_target);
    }
}

impl<T: Show> Show for [T] {
    fn put(&self, is_target: bool) {
        raw(c"[");
        let mut separator = c"";
        for item in self {
            raw(separator);
            item.put(is_target);
            separator = c", ";
        }
        raw(c"]");
    }
}

impl<T: Show, const N: usize> Show for [T; N] {
    fn put(&self, is_target: bool) {
        self.as_slice().put(is_target);
    }
}

impl<T: Show> Show for Vec<T> {
    fn put(&self, is_target: bool) {
        self.as_slice().put(is_target);
    }
}

fn put_pointer<T: Show>(target: *const T, is_target: bool) {
    unsafe {
        out::put_address(target as *const c_void);
        if !is_target && !target.is_null() {
            raw(c" -> ");
            (*target).put(true);
        }
    }
}

impl<T: Show> Show for &T {
    fn put(&self, is_target: bool) {
        put_pointer(*self, is_target);
    }
}

impl<T: Show> Show for &mut T {
    fn put(&self, is_target: bool) {
        put_pointer(&raw const **self, is_target);
    }
}

impl<T: Show> Show for Box<T> {
    fn put(&self, is_target: bool) {
        put_pointer(&raw const **self, is_target);
    }
}

impl<T: Show> Show for *const T {
    fn put(&self, is_target: bool) {
        put_pointer(*self, is_target);
    }
}

impl<T: Show> Show for *mut T {
    fn put(&self, is_target: bool) {
        put_pointer(*self, is_target);
    }
}

impl Show for &str {
    fn put(&self, is_target: bool) {
        (**self).put(is_target);
    }
}

impl<T: Show> Show for &[T] {
    fn put(&self, is_target: bool) {
        (**self).put(is_target);
    }
}

impl<T: Show> Show for &mut [T] {
    fn put(&self, is_target: bool) {
        (**self).put(is_target);
    }
}

impl Show for Box<str> {
    fn put(&self, is_target: bool) {
        (**self).put(is_target);
    }
}

impl<T: Show> Show for Box<[T]> {
    fn put(&self, is_target: bool) {
        (**self).put(is_target);
    }
}

type Callback = fn(i32) -> i32;

impl Show for Callback {
    fn put(&self, _is_target: bool) {
        unsafe { out::put_address(*self as *const c_void) }
    }
}

// The name of a variant and its payload.
fn put_variant<T: Show>(name: &CStr, payload: &T, is_target: bool) {
    raw(name);
    raw(c"(");
    payload.put(is_target);
    raw(c")");
}

impl<T: Show> Show for Option<T> {
    fn put(&self, is_target: bool) {
        match self {
            Some(payload) => put_variant(c"Some", payload, is_target),
            None => raw(c"None"),
        }
    }
}

impl<T: Show, E: Show> Show for Result<T, E> {
    fn put(&self, is_target: bool) {
        match self {
            Ok(payload) => put_variant(c"Ok", payload, is_target),
            Err(payload) => put_variant(c"Err", payload, is_target),
        }
    }
}

macro_rules! show_tuple {
    ($($name:ident $index:tt),*) => {
        impl<$($name: Show),*> Show for ($($name,)*) {
            fn put(&self, is_target: bool) {
                raw(c"(");
                $(
                    if $index > 0 {
                        raw(c", ");
                    }
                    self.$index.put(is_target);
                )*
                raw(c")");
            }
        }
    };
}

show_tuple!(A 0);
show_tuple!(A 0, B 1);
show_tuple!(A 0, B 1, C 2);

macro_rules! show_struct {
    ($name:ty: $first:ident = $first_text:literal $(, $field:ident = $text:literal)*) => {
        impl Show for $name {
            fn put(&self, is_target: bool) {
                raw($first_text);
                self.$first.put(is_target);
                $(
                    raw($text);
                    self.$field.put(is_target);
                )*
                raw(c"}");
            }
        }
    };
}

struct Point {
    x: i32,
    y: i32,
}

show_struct!(Point: x = c"{x = ", y = c", y = ");

struct Line {
    from: Point,
    to: Point,
    mode: Mode,
}

show_struct!(Line: from = c"{from = ", to = c", to = ", mode = c", mode = ");

struct Person<'a> {
    name: String,
    nick: &'a str,
    scores: Vec<u8>,
    friend: Option<&'a Point>,
}

show_struct!(Person<'_>: name = c"{name = ", nick = c", nick = ", scores = c", scores = ",
    friend = c", friend = ");

struct Generic<T> {
    value: T,
    count: u8,
}

show_struct!(Generic<i64>: value = c"{value = ", count = c", count = ");
show_struct!(Generic<(char, bool)>: value = c"{value = ", count = c", count = ");

struct Meters(f64);

impl Show for Meters {
    fn put(&self, is_target: bool) {
        (self.0,).put(is_target);
    }
}

struct Mixed(i8, String, Point);

impl Show for Mixed {
    fn put(&self, is_target: bool) {
        raw(c"(");
        self.0.put(is_target);
        raw(c", ");
        self.1.put(is_target);
        raw(c", ");
        self.2.put(is_target);
        raw(c")");
    }
}

struct Unit;

impl Show for Unit {
    fn put(&self, _is_target: bool) {
        raw(c"{}");
    }
}

#[repr(C)]
union Number {
    integer: u32,
    real: f32,
}

impl Show for Number {
    fn put(&self, _is_target: bool) {
        unsafe {
            raw(c"{integer = ");
            self.integer.put(true);
            raw(c", real = ");
            self.real.put(true);
            raw(c"}");
        }
    }
}

#[derive(Clone, Copy)]
enum Mode {
    Off,
    Slow,
    Fast,
}

impl Show for Mode {
    fn put(&self, _is_target: bool) {
        raw(match self {
            Mode::Off => c"Off",
            Mode::Slow => c"Slow",
            Mode::Fast => c"Fast",
        });
    }
}

#[derive(Clone, Copy)]
#[repr(i16)]
enum Level {
    Low = -300,
    Middle = 0,
    High = 1000,
}

impl Show for Level {
    fn put(&self, _is_target: bool) {
        raw(match self {
            Level::Low => c"Low",
            Level::Middle => c"Middle",
            Level::High => c"High",
        });
    }
}

#[repr(u64)]
enum Huge {
    Small = 1,
    Large = 0x8000_0000_0000_0001,
}

impl Show for Huge {
    fn put(&self, _is_target: bool) {
        raw(match self {
            Huge::Small => c"Small",
            Huge::Large => c"Large",
        });
    }
}

enum Figure {
    Circle(f64),
    Rect { w: i32, h: u8 },
    Pair(i16, Mode),
    Empty,
}

impl Show for Figure {
    fn put(&self, is_target: bool) {
        match self {
            Figure::Circle(radius) => put_variant(c"Circle", radius, is_target),
            Figure::Rect { w, h } => {
                raw(c"Rect {w = ");
                w.put(is_target);
                raw(c", h = ");
                h.put(is_target);
                raw(c"}");
            }
            Figure::Pair(number, mode) => {
                raw(c"Pair(");
                number.put(is_target);
                raw(c", ");
                mode.put(is_target);
                raw(c")");
            }
            Figure::Empty => raw(c"Empty"),
        }
    }
}

// With the tag of its own that its layout asks for.
#[repr(u8)]
enum Tagged {
    Byte(u8) = 3,
    Word { value: u32 } = 200,
    Nothing = 7,
}

impl Show for Tagged {
    fn put(&self, is_target: bool) {
        match self {
            Tagged::Byte(byte) => put_variant(c"Byte", byte, is_target),
            Tagged::Word { value } => {
                raw(c"Word {value = ");
                value.put(is_target);
                raw(c"}");
            }
            Tagged::Nothing => raw(c"Nothing"),
        }
    }
}

// Its other variants are unused values of the capacity of the string.
enum Message {
    Text(String),
    Quit,
    Move { x: i32 },
    Mark(char),
}

impl Show for Message {
    fn put(&self, is_target: bool) {
        match self {
            Message::Text(text) => put_variant(c"Text", text, is_target),
            Message::Quit => raw(c"Quit"),
            Message::Move { x } => {
                raw(c"Move {x = ");
                x.put(is_target);
                raw(c"}");
            }
            Message::Mark(mark) => put_variant(c"Mark", mark, is_target),
        }
    }
}

// Its other variants are unused values of the tag of the figure within.
enum Outer {
    Inner(u8, Figure),
    Left,
    Right(u32),
}

impl Show for Outer {
    fn put(&self, is_target: bool) {
        match self {
            Outer::Inner(number, figure) => {
                raw(c"Inner(");
                number.put(is_target);
                raw(c", ");
                figure.put(is_target);
                raw(c")");
            }
            Outer::Left => raw(c"Left"),
            Outer::Right(number) => put_variant(c"Right", number, is_target),
        }
    }
}

enum Single {
    Only(i32),
}

impl Show for Single {
    fn put(&self, is_target: bool) {
        let Single::Only(number) = self;
        put_variant(c"Only", number, is_target);
    }
}

// A number that is not zero is a number in two layers of tuple structs.
impl Show for NonZeroU32 {
    fn put(&self, is_target: bool) {
        ((self.get(),),).put(is_target);
    }
}

static mut TOTAL: u64 = 0;
static mut TITLE: &str = "";
static mut TABLE: [i16; 3] = [0; 3];
static mut ORIGIN: Point = Point { x: 0, y: 0 };
static mut CHOICE: Option<u16> = None;

mod inner {
    pub static mut COUNT: i32 = 0;

    pub mod deep {
        use crate::Figure;

        pub static mut FIGURE: Figure = Figure::Empty;
    }
}

fn fill_statics() {
    unsafe {
        TOTAL = (seed() as u64) << 40;
        TITLE = "statics \u{20ac}";
        TABLE = [1, seed() as i16 * -2, 3];
        ORIGIN = Point { x: seed() * 10, y: seed() * -20 };
        CHOICE = Some(seed() as u16 * 77);
        inner::COUNT = seed() * 4321;
        inner::deep::FIGURE = Figure::Circle(seed_double() * 20.0);
    }
}

#[inline(never)]
fn show_statics() {
    unsafe {
        show(c"::values::HEAP", &Unit);
        show(c"::values::TOTAL", &TOTAL);
        show(c"::values::TITLE", &TITLE);
        show(c"::values::TABLE", &TABLE);
        show(c"::values::ORIGIN", &ORIGIN);
        show(c"::values::CHOICE", &CHOICE);
        show(c"::values::inner::COUNT", &inner::COUNT);
        show(c"::values::inner::deep::FIGURE", &inner::deep::FIGURE);
    }
}

#[inline(never)]
fn innermost(level: u32, point: &mut Point, text: String) -> i32 {
    static mut CALLS: i32 = 40;
    let shadow = level as i32 * -7;
    let closure = move |more: i32| level as i32 + more;
    point.x += seed();
    unsafe { CALLS += seed() };
    show(c"innermost.level", &level);
    show(c"innermost.point", &point);
    show(c"innermost.text", &text);
    show(c"::values::innermost::CALLS", unsafe { &CALLS });
    show(c"innermost.shadow", &shadow);
    unsafe {
        out::begin(c"innermost.closure".as_ptr());
        raw(c"{level = ");
        closure(0).put(true);
        raw(c"}");
        out::end();
    }
    let shadow = seed_double() * level as f64;
    show(c"innermost.shadow", &shadow);
    {
        let shadow = (b'a' + level as u8) as char;
        show(c"innermost.shadow", &shadow);
        show_statics();
        if seed() != 0 {
            core::arch::wasm32::unreachable();
        }
        closure(shadow as i32)
    }
}

#[inline(never)]
fn pointers(
    line: &Line,
    boxed: Box<Point>,
    number: &mut i32,
    raw_point: *const Point,
    callback: Callback,
) -> i32 {
    let reference = &line.to;
    let mut value = seed() * 12;
    let mutable = &mut value;
    let raw_mutable: *mut i32 = mutable;
    let nowhere: *const i32 = null();
    let nested = &reference;
    let boxed_number = Box::new(seed() as i64 * -1_000_000_000_000);
    let boxed_box = Box::new(Box::new(seed() as u8));
    let boxed_figure = Box::new(Figure::Rect { w: seed(), h: 9 });
    let string = String::from("owned \u{e9}");
    let string_reference = &string;
    let list = vec![seed(), 2, 3];
    let list_reference = &list;
    let option = Some(seed() as u16);
    let option_reference = &option;
    let array = [seed(), 8];
    let array_reference = &array;
    let mut point = Point { x: seed() * 3, y: seed() * 4 };
    point.x += reference.x;
    show(c"pointers.line", &line);
    show(c"pointers.boxed", &boxed);
    show(c"pointers.number", &number);
    show(c"pointers.raw_point", &raw_point);
    show(c"pointers.callback", &callback);
    show(c"pointers.reference", &reference);
    show(c"pointers.value", unsafe { &*raw_mutable });
    show(c"pointers.mutable", &raw_mutable);
    show(c"pointers.raw_mutable", &raw_mutable);
    show(c"pointers.nowhere", &nowhere);
    show(c"pointers.nested", &nested);
    show(c"pointers.boxed_number", &boxed_number);
    show(c"pointers.boxed_box", &boxed_box);
    show(c"pointers.boxed_figure", &boxed_figure);
    show(c"pointers.string", &string);
    show(c"pointers.string_reference", &string_reference);
    show(c"pointers.list", &list);
    show(c"pointers.list_reference", &list_reference);
    show(c"pointers.option", &option);
    show(c"pointers.option_reference", &option_reference);
    show(c"pointers.array", &array);
    show(c"pointers.array_reference", &array_reference);
    show(c"pointers.point", &point);
    // The innermost function changes a copy that has no name here.
    innermost(4, &mut Point { x: point.x, y: point.y }, String::from("last")) + callback(boxed.x)
}

#[inline(never)]
fn twice(number: i32) -> i32 {
    number * 2 * seed()
}

#[inline(always)]
fn mixed_in(amount: i32) -> i32 {
    let doubled = amount * 2 + seed();
    unsafe {
        out::show_signed(c"mixed_in.amount".as_ptr(), amount as i64);
        out::show_signed(c"mixed_in.doubled".as_ptr(), doubled as i64);
    }
    let line = Line {
        from: Point { x: doubled, y: seed() },
        to: Point { x: amount, y: -seed() },
        mode: Mode::Slow,
    };
    show(c"mixed_in.line", &line);
    let boxed = Box::new(Point { x: seed() * 5, y: 6 });
    show(c"mixed_in.boxed", &boxed);
    pointers(&line, boxed, &mut (seed() * 99), &raw const line.from, twice) + doubled + amount
}

#[inline(never)]
fn options(
    some: Option<i32>,
    none: Option<i32>,
    text: Option<&str>,
    outcome: Result<u8, String>,
    failure: Result<u8, String>,
) -> i32 {
    let point = Point { x: seed() * 7, y: seed() * -8 };
    let reference = Some(&point);
    let no_reference = if seed() != 0 { None } else { Some(&point) };
    let boxed = Some(Box::new(seed() * 13));
    let no_box = if seed() != 0 { None } else { Some(Box::new(1)) };
    let nonzero = NonZeroU32::new(seed() as u32 * 500);
    let zero = NonZeroU32::new(seed() as u32 - 1);
    let letter = char::from_u32(seed() as u32 * 0x2603);
    let no_letter = char::from_u32(seed() as u32 * 0xd800);
    let both = Some(Some(seed() as u8 * 5));
    let outer_only = Some(if seed() != 0 { None } else { Some(1u8) });
    let neither: Option<Option<u8>> = if seed() != 0 { None } else { Some(None) };
    let truth = Some(seed() > 0);
    let no_truth = if seed() != 0 { None } else { Some(true) };
    let nested_truth = Some(if seed() != 0 { None } else { Some(true) });
    let mode = Some(if seed() != 0 { Mode::Fast } else { Mode::Off });
    let no_mode = if seed() != 0 { None } else { Some(Mode::Slow) };
    let string = Some(String::from("some string"));
    let no_string = if seed() != 0 { None } else { Some(String::new()) };
    let list = Some(vec![seed(), 2]);
    let slice = list.as_deref();
    let no_text = if seed() != 0 { None } else { text };
    let callback: Option<Callback> = Some(twice);
    let tuple = Some((seed() as u8, seed() < 0));
    let no_tuple = if seed() != 0 { None } else { Some((1u16, true)) };
    let wide = Some(seed() as i128 * -3);
    let done: Result<(), u8> = if seed() != 0 { Ok(()) } else { Err(1) };
    let undone: Result<(), u8> = if seed() == 0 { Ok(()) } else { Err(seed() as u8 * 3) };
    let either: Result<f32, Mode> = Ok(seed_float() * 3.0);
    let float = Some(seed_double() * 4.0);
    show(c"options.some", &some);
    show(c"options.none", &none);
    show(c"options.text", &text);
    show(c"options.outcome", &outcome);
    show(c"options.failure", &failure);
    show(c"options.point", &point);
    show(c"options.reference", &reference);
    show(c"options.no_reference", &no_reference);
    show(c"options.boxed", &boxed);
    show(c"options.no_box", &no_box);
    show(c"options.nonzero", &nonzero);
    show(c"options.zero", &zero);
    show(c"options.letter", &letter);
    show(c"options.no_letter", &no_letter);
    show(c"options.both", &both);
    show(c"options.outer_only", &outer_only);
    show(c"options.neither", &neither);
    show(c"options.truth", &truth);
    show(c"options.no_truth", &no_truth);
    show(c"options.nested_truth", &nested_truth);
    show(c"options.mode", &mode);
    show(c"options.no_mode", &no_mode);
    show(c"options.string", &string);
    show(c"options.no_string", &no_string);
    show(c"options.list", &list);
    show(c"options.slice", &slice);
    show(c"options.no_text", &no_text);
    show(c"options.callback", &callback);
    show(c"options.tuple", &tuple);
    show(c"options.no_tuple", &no_tuple);
    show(c"options.wide", &wide);
    show(c"options.done", &done);
    show(c"options.undone", &undone);
    show(c"options.either", &either);
    show(c"options.float", &float);
    mixed_in(seed() * 20) + point.x
}

#[inline(never)]
fn compounds(pair: (i32, f64), figure: &Figure, mode: Mode, point: Point, meters: Meters) -> i32 {
    let unit = ();
    let unit_struct = Unit;
    let triple = (seed() as u8, 'x', seed_float());
    let nested = ((seed(), true), [seed() as i16, -2]);
    let single = (seed() as i64,);
    let mixed = Mixed(seed() as i8 * -1, String::from("mixed"), Point { x: 1, y: seed() * 2 });
    let line = Line { from: Point { x: 1, y: seed() }, to: Point { x: 3, y: 4 }, mode: Mode::Fast };
    let circle = Figure::Circle(seed_double() * 16.0);
    let rect = Figure::Rect { w: seed() * -5, h: 7 };
    let two = Figure::Pair(seed() as i16 * 300, Mode::Slow);
    let empty = if seed() != 0 { Figure::Empty } else { Figure::Circle(0.0) };
    let off = if seed() != 0 { Mode::Off } else { Mode::Slow };
    let low = if seed() != 0 { Level::Low } else { Level::Middle };
    let high = if seed() != 0 { Level::High } else { Level::Middle };
    let huge = if seed() != 0 { Huge::Large } else { Huge::Small };
    let byte = Tagged::Byte(seed() as u8 * 250);
    let word = Tagged::Word { value: seed() as u32 * 70000 };
    let nothing = if seed() != 0 { Tagged::Nothing } else { Tagged::Byte(1) };
    let text = Message::Text(String::from("message"));
    let quit = if seed() != 0 { Message::Quit } else { Message::Mark('a') };
    let step = Message::Move { x: seed() * -6 };
    let mark = Message::Mark(if seed() != 0 { '\u{1f600}' } else { 'b' });
    let within = Outer::Inner(seed() as u8 * 8, Figure::Rect { w: 1, h: 2 });
    let left = if seed() != 0 { Outer::Left } else { Outer::Right(1) };
    let right = Outer::Right(seed() as u32 * 9);
    let only = Single::Only(seed() * 31);
    let number = Number { real: seed_float() * 6.25 };
    let generic = Generic { value: seed() as i64 * -70, count: 2 };
    let generic_pair = Generic { value: ('\u{e9}', seed() > 0), count: 3 };
    let person = Person {
        name: String::from("Zo\u{eb}"),
        nick: "zo\t\"o\"",
        scores: vec![seed() as u8, 255],
        friend: Some(&point),
    };
    show(c"compounds.pair", &pair);
    show(c"compounds.figure", &figure);
    show(c"compounds.mode", &mode);
    show(c"compounds.point", &point);
    show(c"compounds.meters", &meters);
    show(c"compounds.unit", &unit);
    show(c"compounds.unit_struct", &unit_struct);
    show(c"compounds.triple", &triple);
    show(c"compounds.nested", &nested);
    show(c"compounds.single", &single);
    show(c"compounds.mixed", &mixed);
    show(c"compounds.line", &line);
    show(c"compounds.circle", &circle);
    show(c"compounds.rect", &rect);
    show(c"compounds.two", &two);
    show(c"compounds.empty", &empty);
    show(c"compounds.off", &off);
    show(c"compounds.low", &low);
    show(c"compounds.high", &high);
    show(c"compounds.huge", &huge);
    show(c"compounds.byte", &byte);
    show(c"compounds.word", &word);
    show(c"compounds.nothing", &nothing);
    show(c"compounds.text", &text);
    show(c"compounds.quit", &quit);
    show(c"compounds.step", &step);
    show(c"compounds.mark", &mark);
    show(c"compounds.within", &within);
    show(c"compounds.left", &left);
    show(c"compounds.right", &right);
    show(c"compounds.only", &only);
    show(c"compounds.number", &number);
    show(c"compounds.generic", &generic);
    show(c"compounds.generic_pair", &generic_pair);
    show(c"compounds.person", &person);
    options(
        Some(seed() * 5),
        if seed() != 0 { None } else { Some(1) },
        Some("some \u{2603}"),
        Ok(seed() as u8 * 200),
        Err(String::from("failed")),
    ) + point.x
}

#[inline(never)]
fn lists(
    text: &str,
    owned: String,
    slice: &[i32],
    mut_slice: &mut [u8],
    array: [u16; 3],
) -> i32 {
    let vector = vec![seed(), -2, 3];
    let points = vec![Point { x: seed(), y: 2 }, Point { x: 3, y: seed() * 4 }];
    let empty: Vec<u64> = Vec::new();
    let empty_text = &text[..0];
    let part = &vector[1..];
    let strings = vec![String::from("one"), String::from("two\n")];
    let words = ["a", text, "\u{20ac}\\"];
    let matrix = [[1, 2, 3], [4, 5, seed() as u8 * 6]];
    let tuples = [(seed(), true), (-2, false)];
    let boxed_text: Box<str> = Box::from(text);
    let boxed_slice: Box<[i16]> = Box::new([seed() as i16, -5]);
    let point_slice = points.as_slice();
    let letters = ['a', '\u{df}', char::from_u32(seed() as u32 * 0x1f600).unwrap_or('?')];
    let no_items: [u32; 0] = [];
    show(c"lists.text", &text);
    show(c"lists.owned", &owned);
    show(c"lists.slice", &slice);
    show(c"lists.mut_slice", &mut_slice);
    show(c"lists.array", &array);
    show(c"lists.vector", &vector);
    show(c"lists.points", &points);
    show(c"lists.empty", &empty);
    show(c"lists.empty_text", &empty_text);
    show(c"lists.part", &part);
    show(c"lists.strings", &strings);
    show(c"lists.words", &words);
    show(c"lists.matrix", &matrix);
    show(c"lists.tuples", &tuples);
    show(c"lists.boxed_text", &boxed_text);
    show(c"lists.boxed_slice", &boxed_slice);
    show(c"lists.point_slice", &point_slice);
    show(c"lists.letters", &letters);
    show(c"lists.no_items", &no_items);
    compounds(
        (seed() * 11, seed_double() * 12.0),
        &Figure::Circle(seed_double()),
        Mode::Fast,
        Point { x: seed() * 31, y: seed() * -32 },
        Meters(seed_double() * 18.0),
    ) + vector[0]
}

#[inline(never)]
fn numbers(i8_: i8, u8_: u8, i16_: i16, u16_: u16, i32_: i32) -> i32 {
    let u32_ = 4_000_000_000 - seed() as u32;
    let i64_ = i64::MIN + seed() as i64;
    let u64_ = u64::MAX - seed() as u64;
    let i128_ = -((i64_ as i128) << 60 ^ seed() as i128);
    let u128_ = u128::MAX - seed() as u128;
    let isize_ = seed() as isize * -100_000;
    let usize_ = seed() as usize * 100_000;
    let yes = seed() > 0;
    let no = seed() < 0;
    let letter = (b'p' + seed() as u8) as char;
    let accented = if seed() != 0 { '\u{e9}' } else { 'e' };
    let quote = (b'\'' * seed() as u8) as char;
    let newline = (b'\n' * seed() as u8) as char;
    let float = seed_float() / 5.0 * 1.5;
    let double = seed_double() * 8.0 / 3.0;
    let tiny = seed_double() * 8e-7;
    let large = seed_double() * 8e20;
    let infinite = -double / (seed() - 1) as f64;
    unsafe {
        out::show_signed(c"numbers.i8_".as_ptr(), i8_ as i64);
        out::show_unsigned(c"numbers.u8_".as_ptr(), u8_ as u64);
        out::show_signed(c"numbers.i16_".as_ptr(), i16_ as i64);
        out::show_unsigned(c"numbers.u16_".as_ptr(), u16_ as u64);
        out::show_signed(c"numbers.i32_".as_ptr(), i32_ as i64);
        out::show_unsigned(c"numbers.u32_".as_ptr(), u32_ as u64);
        out::show_signed(c"numbers.i64_".as_ptr(), i64_);
        out::show_unsigned(c"numbers.u64_".as_ptr(), u64_);
        show(c"numbers.i128_", &i128_);
        show(c"numbers.u128_", &u128_);
        out::show_signed(c"numbers.isize_".as_ptr(), isize_ as i64);
        out::show_unsigned(c"numbers.usize_".as_ptr(), usize_ as u64);
        out::show_truth(c"numbers.yes".as_ptr(), yes as i32);
        out::show_truth(c"numbers.no".as_ptr(), no as i32);
        out::show_unicode(c"numbers.letter".as_ptr(), letter as u32);
        out::show_unicode(c"numbers.accented".as_ptr(), accented as u32);
        out::show_unicode(c"numbers.quote".as_ptr(), quote as u32);
        out::show_unicode(c"numbers.newline".as_ptr(), newline as u32);
        out::show_float32(c"numbers.float".as_ptr(), float);
        out::show_float64(c"numbers.double".as_ptr(), double);
        out::show_float64(c"numbers.tiny".as_ptr(), tiny);
        out::show_float64(c"numbers.large".as_ptr(), large);
        out::show_float64(c"numbers.infinite".as_ptr(), infinite);
    }
    lists(
        "text \u{e9}\n",
        String::from("owned \u{2603}"),
        &[seed(), 20, 30],
        &mut [seed() as u8, 128],
        [1, 2, seed() as u16 * 60000],
    ) + i32_
        + letter as i32
}

#[unsafe(no_mangle)]
pub extern "C" fn _start() {
    fill_statics();
    numbers(
        seed() as i8 * -100,
        seed() as u8 * 250,
        seed() as i16 * -30000,
        seed() as u16 * 60000,
        seed() * -2_000_000_000,
    );
}
