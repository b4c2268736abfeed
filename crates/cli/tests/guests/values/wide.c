/* A guest with 64-bit addresses. */
static long values[3] = {1, -2, 3};

__attribute__((noinline)) long sum(long count, double ratio) {
    long result = 0;
    for (long i = 0; i < count; i++)
        result += values[i];
    int number = 42;
    if (result == 2)
        __builtin_trap();
    return (long)(number * ratio);
}

void _start(void) {
    sum(3, 2.5);
}
