/** vm.conf's words: macros, includes, quotes; and files that are out of bounds. */
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import { format, parseConfig } from "./index.ts";
import { accounts, cleanUp, config, errors, file, folder, parse, put, vm } from "./testing.ts";

afterAll(cleanUp);

test("macros, also over the file's, and what is wrong with them", () => {
  const text = 'big = "2G"\nkernel = /bsd\nvm "x" {\n memory $big\n boot $kernel\n}\n';
  expect(config(text).vms[0]).toMatchObject({ memory: 2 ** 31, boot: "/bsd" });
  expect(config(text, { big: "1G" }).vms[0]).toMatchObject({ memory: 2 ** 30 });
  expect(parse('spare = "1"\n').warnings.map(({ message }) => message)).toEqual([
    "macro 'spare' not used",
  ]);
  expect(errors("boot = 1\n")).toEqual(["1: 'boot' is a keyword, no macro"]);
  expect(errors(vm("memory $size"))[0]).toBe("2: macro 'size' not defined");
});

test("a macro may be several words", () => {
  const text = 'card = "interface { switch sw }"\nswitch sw { interface br0 }\nvm x {\n $card\n}\n';
  expect(config(text).vms[0].interfaces).toMatchObject([{ switch: "sw" }]);
});

test("comments, continued lines, quotes", () => {
  const text = '# first\nvm x { # here\n append "a \\"b\\" c" \'d\'\n memory \\\n 1G\n}\n';
  expect(config(text).vms[0]).toMatchObject({ append: 'a "b" cd', memory: 2 ** 30 });
  expect(errors("vm x {\n memory \\\n 5\n}\n")).toEqual(["3: size must be at least one megabyte"]);
});

test("includes, from the including file's folder, with their own lines", () => {
  put("d/inner.conf", 'name = "inner"\ninclude "last.conf"\n');
  put("d/last.conf", "vm $name {\n memory 1G\n}\nvm bad {\n cpus 0\n}");
  const { errors: found } = parse('include "d/inner.conf"\n');
  expect(found.map(format)).toEqual([
    `${join(folder, "d/last.conf")}:5: invalid number of cpus: 0`,
  ]);
  put("d/last.conf", 'include "inner.conf"\n');
  expect(parse('include "d/inner.conf"\n').errors[0].message).toBe("inner.conf includes itself");
});

test("a file that is too long, none at all, or a folder is one error", () => {
  expect(errors("#".repeat(2 ** 20 + 1))[0]).toMatch(/too long/);
  expect(parseConfig(join(folder, "none")).errors[0].message).toBe("no such file");
  expect(parseConfig(folder).errors[0].message).toBe("is a directory");
});

test("strings keep their order, whichever are of macros", () => {
  const text = 'b = "b"\nd = d\nvm x {\n append "a" $b "c" $d e\n boot $d "/" $b\n}\n';
  expect(config(text).vms[0]).toMatchObject({ append: "abcde", boot: "d/b" });
});

test("a backslash quotes quotes, itself and a line's end, and else is one", () => {
  const text = String.raw`vm x {
 append "a\"b\\c\d 'e' \
f"
 boot '/a"b\'c'
}
`;
  expect(config(text).vms[0]).toMatchObject({ append: "a\"b\\c\\d 'e' f", boot: "/a\"b'c" });
  expect(config(text.replaceAll("\n", "\r\n")).vms[0].append).toBe("a\"b\\c\\d 'e' f");
});

test("a string ends with its line", () => {
  expect(errors('vm x {\n append "a\n memory 1\n}\n')).toEqual([
    "2: string without end",
    "3: size must be at least one megabyte",
  ]);
  expect(errors('m = "a\n')).toEqual(["1: string without end"]);
});

test("macros and includes are at the top, and work after a block that isn't closed", () => {
  expect(errors(vm("m = 1"))).toEqual(["2: syntax error"]);
  expect(errors(vm('include "x"'))).toEqual(["2: syntax error"]);
  const open = "vm x {\n memory 1G\n\nvm y {\n memory 1G\n}\nm = 1\nvm z {\n cpus $m\n}\n";
  expect(errors(open)).toEqual(["4: syntax error"]);
});

test("a macro may name a file to include", () => {
  put("e/one.conf", 'vm "included" { memory 1G }\n');
  expect(config('dir = e\ninclude $dir "/one.conf"\n').vms[0].name).toBe("included");
  expect(errors("include\n")).toEqual(["1: syntax error"]);
  expect(errors("include { }\n")).toEqual(["1: syntax error"]);
});

test("a macro within a macro's string is not put in", () => {
  expect(errors('m = "$m $m"\nvm x {\n append $m\n}\n')).toEqual(["3: syntax error"]);
  const doubled = Array.from({ length: 40 }, (_, i) => `m${i + 1} = $m${i} $m${i}\n`).join("");
  expect(errors(`m0 = 0123456789\n${doubled}`)[0]).toBe("11: macro 'm10' too long");
});

test("errors come by file and line, a file where it is first included", () => {
  put("f.conf", "x\n");
  put("g.conf", "\ny\n");
  const { errors: found } = parse('\n\ninclude "g.conf"\ninclude "f.conf"\nz\n');
  const name = (path: string) => path.slice(folder.length + 1);
  expect(found.map((error) => [name(error.file), error.line])).toEqual([
    ["vm.conf", 5],
    ["g.conf", 2],
    ["f.conf", 1],
  ]);
});

test("includes have bounds: so deep, and so many", () => {
  for (let i = 0; i < 20; i++) put(`deep${i}.conf`, `include "deep${i + 1}.conf"\n`);
  const deep = parse('include "deep0.conf"\n').errors;
  expect(deep.map(format)).toEqual([
    `${join(folder, "deep15.conf")}:1: includes are nested too deeply`,
  ]);
  for (let i = 0; i < 12; i++) {
    put(`wide${i}.conf`, i === 11 ? "\n" : `include "wide${i + 1}.conf"\n`.repeat(9));
  }
  expect(parse('include "wide0.conf"\n').errors.at(-1)?.message).toBe("too many includes");
});

test("only regular files are read", () => {
  expect(parseConfig("/dev/null").errors).toEqual([]);
  expect(errors('include "/dev/zero"\n')).toEqual(["1: /dev/zero: not a regular file"]);
  const fifo = join(folder, "fifo");
  Bun.spawnSync(["mkfifo", fifo]);
  expect(errors('include "fifo"\n')).toEqual([`1: ${fifo}: not a regular file`]);
  expect(errors(`include "${"x".repeat(300)}"\n`)).toEqual([
    expect.stringMatching(/^1: .*x: name too long$/),
  ]);
});

test("control characters are an error at their line, and never in a message", () => {
  expect(errors('vm x {\n boot "/a\0b"\n}\n')).toEqual(["2: control character"]);
  expect(errors("\n\n\u001b[2J\n")).toEqual(["3: control character"]);
});

test("paths that can't be looked up are not found", () => {
  put("plain", "");
  for (const path of [`/${"a".repeat(300)}`, join(folder, "plain/x"), "/nonexistent"]) {
    put("vm.conf", vm(`boot "${path}"`));
    const { errors: found } = parseConfig(file, { accounts });
    expect(found.map(({ line, message }) => `${line}: ${message}`)).toEqual([
      `2: kernel path not found: ${path}`,
    ]);
  }
});

test("hostile files end soon, with so many errors", () => {
  for (const text of [
    "a\n".repeat(500_000),
    "}\n".repeat(100_000),
    "{".repeat(100_000),
    "vm x {\n".repeat(100_000),
    `vm x {\n${"frob\n".repeat(100_000)}}`,
    `vm x {\n${"disk disk\n".repeat(100_000)}}`,
    `vm x {\n${"disk a\n".repeat(100_000)}}`,
    `vm x {${",".repeat(300_000)}}`,
    `vm x {\n append ${"a ".repeat(100_000)}\n}\n`,
    '"\n'.repeat(100_000),
    `"${"\\\n".repeat(100_000)}`,
    "$a".repeat(100_000),
  ]) {
    const before = performance.now();
    const found = parse(text).errors;
    expect(performance.now() - before).toBeLessThan(20_000);
    expect(found.length).toBeGreaterThan(0);
    expect(found.length).toBeLessThanOrEqual(201);
    const last = found.at(-1)?.message;
    if (found.length > 50) expect(last).toBe("too many errors");
  }
}, 120_000);

test("an error is no longer than a line", () => {
  const [error] = parse(vm(`owner ${"x".repeat(100_000)}`)).errors;
  expect(error.message.length).toBeLessThan(600);
});
