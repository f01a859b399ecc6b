// build/: each program's modules in one file, with its bytecode: it starts in half the time.
// Sources run where a bundle is missing or older (src/vmm/root.ts).

import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";

const root = resolve(import.meta.dir, "..");
const programs = [
  "vctl/main.ts",
  "vctl/guest-process.ts",
  "vmd/daemon/control.ts",
  "vmd/daemon/main.ts",
  "vmd/net/switch-process.ts",
  "vmd/share/share-process.ts",
  "vmd/vm-process.ts",
];

/** Commands of vctl that have a bundle of their own: what starts, stops and shows VMs again and again. */
const commands = ["fork", "restore", "start", "status", "stop"];

/**
 * commander loads these for subcommands that are programs of their own, which ours aren't, and to
 * strip colours: together a quarter of a command's start.
 */
const unneeded = {
  "import childProcess from 'node:child_process';": "const childProcess = {};",
  "import { stripVTControlCharacters } from 'node:util';":
    "const stripVTControlCharacters = Bun.stripANSI;",
};

/** @param name of the bundle, under build/ without its suffix */
async function bundle(name: string, entry: string): Promise<void> {
  const sources = new Set<string>();
  const { success, logs } = await Bun.build({
    entrypoints: [entry],
    naming: `${name}.js`,
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
          build.onLoad({ filter: /\.(?:ts|json)$/ }, ({ path }) => {
            const name = relative(root, path);
            if (!/^(?:\.\.|build|node_modules)\//.test(name)) sources.add(name);
            return undefined;
          });
          build.onLoad({ filter: /node_modules\/commander\/.*\.js$/ }, async ({ path }) => {
            let contents = await Bun.file(path).text();
            for (const [line, by] of Object.entries(unneeded))
              contents = contents.replace(line, by);
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
  writeFileSync(join(root, "build", `${name}.js.sources`), [...sources].sort().join("\n"));
}

const entries = join(root, "build/entries");
rmSync(join(root, "build"), { recursive: true, force: true });
for (const program of programs) {
  await bundle(program.replace(/\.ts$/, ""), join(root, "src", program));
}
for (const name of commands) {
  const entry = join(entries, `${name}.ts`);
  mkdirSync(dirname(entry), { recursive: true });
  writeFileSync(
    entry,
    `import { ${name}Command as command } from "../../src/vctl/commands/${name}.ts";
import { run } from "../../src/vctl/run.ts";
run({ ${name}: async () => command() });
`,
  );
  await bundle(`vctl/${name}`, entry);
}
rmSync(entries, { recursive: true });
