// Guests that exhaust the stack in their own memory, for tests/tool/run/checks.rs. Built with clang 22:
//
//   CC="clang --target=wasm32 -O1 -nostdlib -Wl,--export=deep,--export=leaf,--export=wild,--no-entry"
//   $CC --no-wasm-opt -Wl,--stack-first overflow.c -o overflow-stack-first.wasm
//   $CC --no-wasm-opt -Wl,--no-stack-first overflow.c -o overflow-data-first.wasm
//   $CC -Wl,--stack-first overflow.c -o overflow-unnamed.wasm    # wasm-opt drops the names

volatile int table[256] = {1, 2, 3};

static void check(void) {
    // What a program may notice of an overflow: its data is not what it was.
    if (table[0] != 1 || table[255] != 0) __builtin_trap();
}

// Every frame has an array. Where data lies below the stack, it is overwritten first.
__attribute__((noinline)) int deep(int n) {
    volatile char buffer[1000];
    for (int i = 0; i < 1000; i++) buffer[i] = (char)0xff;
    check();
    return deep(n + 1) + buffer[n % 1000];
}

// A function without calls uses memory below the stack pointer without moving it.
__attribute__((noinline)) static int red_zone(int n) {
    volatile int buffer[24];
    for (int i = 0; i < 24; i++) buffer[i] = n;
    return buffer[n % 24];
}

// Frames of 32 bytes, until the leaf has less than its 96 bytes left.
int leaf(int n) {
    volatile int here[4];
    here[0] = n;
    if (red_zone(n) < 0) return 0;
    return leaf(n + 1) + here[0];
}

// An access out of bounds that has nothing to do with the stack.
int wild(int n) {
    volatile char buffer[16];
    buffer[0] = n;
    return *(volatile int *)(0x7fffff00 + n) + buffer[0];
}
