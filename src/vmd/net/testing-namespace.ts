/** Test files that configure a network: they run again in a network namespace of their own. For tests. */
import { expect, test } from "bun:test";

/** Set where a test file runs in its namespace. */
const INSIDE = "VMD_TEST_NAMESPACE";

/** The namespace's name beside "router", where a test runs: another host, 192.0.2.1 on a wire. */
export interface Namespaces {
  readonly router: string;
  readonly outside: string;
}

/** Whether this process is the one in the namespace. */
export const isInside = process.env[INSIDE] === "yes";

function run(...command: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(command);
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr.toString()}`);
}

/** Without root there is no namespace to be had, and no test. */
const hasNamespaces =
  process.geteuid!() === 0 &&
  Bun.which("ip") !== null &&
  Bun.spawnSync(["unshare", "--net", "true"]).exitCode === 0;

/**
 * Makes a test of a test file: it runs in a namespace whose only way out is a wire (192.0.2.2) to a
 * host at 192.0.2.1.
 * @param outside a program for that other host, while the test runs.
 */
export function testInNamespace(file: string, outside?: string): void {
  test.skipIf(!hasNamespaces)("in a network namespace", async () => {
    const tag = `${process.pid}-${Math.floor(Math.random() * 1e6)}`;
    const [router, other] = [`vmd-r-${tag}`, `vmd-o-${tag}`];
    let server: Bun.Subprocess | undefined;
    try {
      for (const name of [router, other]) run("ip", "netns", "add", name);
      const wire = ["add", "name", "wire0", "type", "veth", "peer", "name", "wire0"];
      run("ip", "-n", router, "link", ...wire, "netns", other);
      for (const [name, address] of [
        [router, "192.0.2.2/24"],
        [other, "192.0.2.1/24"],
      ]) {
        run("ip", "-n", name, "link", "set", "dev", "lo", "up");
        run("ip", "-n", name, "address", "add", address, "dev", "wire0");
        run("ip", "-n", name, "link", "set", "dev", "wire0", "up");
      }
      run("ip", "-n", router, "route", "add", "default", "via", "192.0.2.1");
      if (outside !== undefined) {
        server = Bun.spawn(["ip", "netns", "exec", other, process.execPath, "-e", outside], {
          stdio: ["ignore", "inherit", "inherit"],
        });
      }
      const command = ["ip", "netns", "exec", router, process.execPath, "test", file];
      const child = Bun.spawn(command, {
        stdio: ["ignore", "pipe", "pipe"],
        env: { ...process.env, [INSIDE]: "yes" },
        timeout: 60_000,
      });
      const [out, err] = await Promise.all([
        new Response(child.stdout).text(),
        new Response(child.stderr).text(),
      ]);
      expect(await child.exited, `${out}${err}`).toBe(0);
    } finally {
      server?.kill();
      await server?.exited;
      for (const name of [router, other]) Bun.spawnSync(["ip", "netns", "delete", name]);
    }
  });
}
