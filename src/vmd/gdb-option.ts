/** Where a VM's debugger connects, as it is asked for. */

/** A unix socket's path, or a numeric address and a port of TCP. */
export type GdbOption =
  { readonly path: string } | { readonly host: string; readonly port: number };

/** Bytes of a unix socket's path, without its end. */
const PATH_MAX = 107;

/** What is wrong with it, in words; undefined when nothing is. */
export function checkGdb(option: GdbOption): string | undefined {
  if ("path" in option) {
    if (option.path === "" || option.path.includes("\0")) return "gdb: no path";
    if (Buffer.byteLength(option.path) <= PATH_MAX) return undefined;
    return `gdb ${option.path}: the path is longer than ${PATH_MAX} bytes`;
  }
  const { host, port } = option;
  if (!/^(\d{1,3}(\.\d{1,3}){3}|[0-9a-f:.]*:[0-9a-f:.]*)$/i.test(host)) {
    return `gdb ${host}: it is no numeric address such as 127.0.0.1`;
  }
  // Those below are for services of the host's.
  if (Number.isInteger(port) && port >= 1024 && port <= 65535) return undefined;
  return `gdb port ${port}: it is 1024 to 65535`;
}

/** "[HOST]:PORT", where HOST is 127.0.0.1 unless it is given, or a path. @throws TypeError */
export function parseGdb(text: string): GdbOption {
  const option = parse(text);
  const wrong = checkGdb(option);
  if (wrong !== undefined) throw new TypeError(wrong);
  return option;
}

function parse(text: string): GdbOption {
  if (text.includes("/")) return { path: text };
  const match = /^(.*):(\d{1,5})$/.exec(text);
  if (match === null) throw new TypeError("it is [HOST]:PORT, or the path of a socket");
  const host = match[1].replace(/^\[(.*)\]$/, "$1");
  return {
    host: host === "" || host === "localhost" ? "127.0.0.1" : host,
    port: Number(match[2]),
  };
}

/** As gdb's `target remote` takes it. */
export function gdbAddress(option: GdbOption): string {
  if ("path" in option) return option.path;
  const { host, port } = option;
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** What a user does next. */
export function waitsForGdb(name: string, option: GdbOption): string {
  return `${name}: waits for gdb: target remote ${gdbAddress(option)}`;
}
