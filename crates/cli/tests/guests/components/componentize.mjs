import { componentize } from "@bytecodealliance/componentize-js";
import { writeFile } from "node:fs/promises";
import { resolve } from "node:path";

const { component } = await componentize({
    sourcePath: "app.js",
    witPath: resolve("wit"),
    worldName: "app",
    disableFeatures: ["http", "fetch-event"],
});
await writeFile("js.wasm", component);
