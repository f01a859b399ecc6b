// build/: each program's modules in one file, with its bytecode: it starts in half the time.
// Sources run where a bundle is missing or older (src/vmm/root.ts).

import { join, resolve } from "node:path";

const root = resolve(import.meta.dir, "..");
const programs = [
  "vctl/main.ts",
  "vmd/daemon/control.ts",
  "vmd/daemon/main.ts",
  "vmd/net/switch-process.ts",
  "vmd/share/share-process.ts",
  "vmd/vm-process.ts",
];

/**
 * commander loads these for subcommands that are programs of their own, which ours aren't, and to
 * strip colours: together a quarter of a command's start.
 */
const unneeded = {
  "import childProcess from 'node:child_process';": "const childProcess = {};",
  "import { stripVTControlCharacters } from 'node:util';":
    "const stripVTControlCharacters = Bun.stripANSI;",
};

const { success, logs } = await Bun.build({
  entrypoints: programs.map((program) => join(root, "src", program)),
  root: join(root, "src"),
  outdir: join(root, "build"),
  target: "bun",
  format: "cjs",
  bytecode: true,
  // The text stays in each process's memory. Names are kept, for what an internal error says.
  minify: { whitespace: true, syntax: true },
  define: { "process.env.VMD_BUNDLED": '"yes"' },
  plugins: [
    {
      name: "unneeded",
      setup(build) {
        build.onLoad({ filter: /node_modules\/commander\/.*\.js$/ }, async ({ path }) => {
          let contents = await Bun.file(path).text();
          for (const [line, by] of Object.entries(unneeded)) contents = contents.replace(line, by);
          return { contents, loader: "js" };
        });
      },
    },
  ],
});
if (!success) {
  for (const log of logs) console.error(String(log));
  process.exit(1);
}
