function work(depth) {
    if (depth > 0) return work(depth - 1);
    for (;;) { globalThis.count = (globalThis.count ?? 0) + 1; }
}
export const run = {
    run() {
        console.log("javascript");
        work(20);
    },
};
