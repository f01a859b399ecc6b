// The demo's guest: Debian's kernel, and an init that greets and gives a shell.
// Run as a program it makes the initramfs and prints its path.

import type { Guest } from "./guest.ts";
import { initramfsFile, prepare } from "./initramfs.ts";
import { linuxAmd64 } from "./linux.ts";

const init = `${prepare}
read seconds rest </proc/uptime
read label memory rest </proc/meminfo
cpu=$(sed -n 's/^model name.*: //p' /proc/cpuinfo)
cat <<END

  Hello from a guest: Linux $(uname -r) on $(uname -m),
  up in $seconds s, with $((memory / 1024)) MiB of memory and one CPU
  (\${cpu:-of no name}).

  This is its shell: "exit" powers the machine off, ~. at the start of a line pulls the plug.

END
export PS1='demo \\w # '
setsid cttyhack sh
poweroff -f
`;

export const demo: Guest = {
  ...linuxAmd64,
  name: "demo",
  description: "Linux 6.1 amd64, greeting whoever started it",
  initrd: () => initramfsFile("demo", { init }),
  says: "This is its shell:",
};

if (import.meta.main) console.log(await demo.initrd!());
