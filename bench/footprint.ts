import type { Benchmark } from "./lib.ts";
export const footprint: Benchmark = { name: "footprint", about: "", measurements: [] };
