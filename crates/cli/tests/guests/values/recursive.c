/* A function that calls itself. Each of its frames has values of its own. */
struct point {
    int x, y;
};

static int total = 7;

__attribute__((noinline)) int walk(int depth, const char *name, struct point *above) {
    struct point here = {above->x + depth, above->y - depth};
    int doubled = depth * 2;
    total += depth;
    if (depth == 4)
        __builtin_trap();
    int below = walk(depth + 1, name + 1, &here);
    return below + doubled + here.y;
}

void _start(void) {
    struct point start = {100, 200};
    walk(1, "names", &start);
}
