/** A VM's block: what its statements mean, and what they may not say. */
import { checkShare } from "../share-option.ts";
import { checkVsock } from "../vsock-option.ts";
import { LIMIT_WORDS, parseLimit } from "../limit-words.ts";
import {
  formatPortForward,
  MAX_FORWARDS,
  parsePortForward,
  sameHostPort,
} from "../net/port-forward.ts";
import { parseSize } from "../size.ts";
import { TSC_KHZ_MAX, TSC_KHZ_MIN } from "../vm-options.ts";
import type {
  ConfigInstance,
  ConfigInterface,
  ConfigLimits,
  ConfigShare,
  ConfigVm,
} from "./config.ts";
import type { Node } from "./grammar.ts";
import { has, isBroken, nodes, type Values } from "./values.ts";

const MIB = 2 ** 20;
const MAX_MEMORY = 128 * 2 ** 30;
const MAX_SHARES = 4;
/** Statements with a block of their own. */
const BLOCKS = ["interfaceOption", "allowBlock", "shareOption"];
const MAX_DISKS = 4;
const MAX_INTERFACES = 4;
const MAX_CPUS = 64;
const MAX_MODULES = 16;
const LONGEST_NAME = 63;
const LONGEST_PATH = 1023;
const LONGEST_LINE = 4095;
const VM_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;
const LLADDR = /^(?:[0-9a-f]{1,2}:){5}[0-9a-f]{1,2}$/i;

/** Reads a block. Its errors are reported; what is wrong is left out. */
export function readVm(node: Node, values: Values): ConfigVm {
  return new VmReader(node, values).read();
}

class VmReader {
  readonly #node: Node;
  readonly #values: Values;
  readonly #given = new Set<string>();
  readonly #vm: ConfigVm;

  constructor(node: Node, values: Values) {
    this.#node = node;
    this.#values = values;
    const first = this.#name("name");
    const { file, line } = values.place;
    const instance = has(node, "instanceName") ? this.#name("instanceName") : undefined;
    this.#vm = {
      name: instance ?? first,
      parent: instance === undefined ? undefined : first,
      enable: true,
      disks: [],
      interfaces: [],
      modules: [],
      devices: [],
      shares: [],
      file,
      line,
    };
  }

  read(): ConfigVm {
    const vm = this.#vm;
    for (const option of nodes(this.#node, "vmOption")) {
      // A block in a statement may be broken, and the rest of it not.
      if (BLOCKS.some((block) => has(option, block))) {
        this.#values.block(option, () => this.#option(option));
      } else {
        this.#values.whole(option, () => this.#option(option));
      }
    }
    const count = vm.interfaceCount ?? 0;
    while (vm.interfaces.length < count) vm.interfaces.push(plainInterface());
    return vm;
  }

  #error(message: string): void {
    this.#values.error(message);
  }

  #name(label: string): string {
    const value = this.#values.string(this.#node, label);
    if (value.length > LONGEST_NAME) this.#error("vm name too long");
    else if (
      this.#values.hasWhole(this.#node, label) &&
      (!VM_NAME.test(value) || /^[0-9]+$/.test(value))
    ) {
      this.#error(`invalid VM name: ${value}`);
    }
    return value;
  }

  #option(option: Node): void {
    const vm = this.#vm;
    const [allow] = nodes(option, "allowBlock");
    const [boot] = nodes(option, "bootOption");
    const [disk] = nodes(option, "diskOption");
    const [card] = nodes(option, "interfaceOption");
    const [share] = nodes(option, "shareOption");
    const [vsock] = nodes(option, "vsockOption");
    const [portable] = nodes(option, "portableOption");
    const [value] = nodes(option, "valueOption");
    if (has(option, "enable") || has(option, "disable")) vm.enable = has(option, "enable");
    else if (has(option, "sev") || has(option, "seves")) {
      this.#error("SEV guests need hardware that this machine doesn't use");
    } else if (allow !== undefined) vm.instances = this.#allow(allow);
    else if (boot !== undefined) this.#values.whole(boot, () => this.#boot(boot));
    else if (disk !== undefined) this.#values.whole(disk, () => this.#disk(disk));
    else if (card !== undefined) this.#interface(card);
    else if (share !== undefined) this.#share(share);
    else if (vsock !== undefined) this.#values.whole(vsock, () => this.#vsock(vsock));
    else if (portable !== undefined) this.#values.whole(portable, () => this.#portable(portable));
    else if (value !== undefined) this.#values.whole(value, () => this.#value(value));
  }

  #allow(node: Node): ConfigInstance {
    const options = nodes(node, "allowOption").filter((option) => !isBroken(option));
    const right = (name: string) => options.some((option) => has(option, name));
    const owner = options.findLast((option) => has(option, "owner"));
    return {
      boot: right("boot"),
      cpus: right("cpus"),
      cdrom: right("cdrom"),
      disk: right("disk"),
      instance: right("instance"),
      interface: right("interface"),
      memory: right("memory"),
      owner: owner === undefined ? undefined : this.#values.owner(this.#values.string(owner)),
    };
  }

  #once(what: string): boolean {
    const first = !this.#given.has(what);
    this.#given.add(what);
    if (!first) this.#error(`${what} specified more than once`);
    return first;
  }

  /** @param what as in "kernel path not found". */
  #path(path: string, what: string): string {
    if (path.length > LONGEST_PATH) this.#error(`${what} name too long`);
    else if (!this.#values.exists(path)) this.#error(`${what} path not found: ${path}`);
    return path;
  }

  #boot(node: Node): void {
    if (has(node, "device")) {
      const device = (["cdrom", "disk", "net"] as const).find((name) => has(node, name));
      if (this.#once("boot device")) this.#vm.bootDevice = device;
      return;
    }
    const path = this.#values.string(node);
    if (this.#once("kernel")) this.#vm.boot = this.#path(path, "kernel");
  }

  #disk(node: Node): void {
    const { disks } = this.#vm;
    const path = this.#values.string(node, "path");
    if (path.length > LONGEST_PATH) this.#error("disk path too long");
    else if (path === "") this.#error("missing disk path");
    if (disks.length === MAX_DISKS) {
      this.#error("too many disks");
      return;
    }
    let format: "raw" | "qcow2" | undefined;
    if (has(node, "formatName")) {
      const name = this.#values.string(node, "formatName");
      if (name === "raw" || name === "qcow2") format = name;
      else this.#error(`unrecognized disk format ${name}`);
    }
    const limits = this.#limits(nodes(node, "limitOption"));
    // The last word counts.
    const words = nodes(node, "diskMode");
    const direct = words.some((word) => has(word, "direct"));
    const modes = words.filter((word) => !has(word, "direct"));
    const readOnly = modes.length > 0 && has(modes[modes.length - 1], "ro");
    disks.push({
      ...{ path, format },
      ...(readOnly ? { readOnly } : {}),
      ...(direct ? { direct } : {}),
      ...(limits === undefined ? {} : { limits }),
    });
  }

  /** undefined for none. */
  #limits(options: readonly Node[]): ConfigLimits | undefined {
    if (options.length === 0) return undefined;
    const limits: ConfigLimits = {};
    for (const option of options) {
      const word = LIMIT_WORDS.find((name) => has(option, name)) ?? "rate";
      const limit = parseLimit(word, this.#values.string(option));
      if (typeof limit === "string") this.#error(limit);
      else Object.assign(limits, limit);
    }
    return limits;
  }

  #share(node: Node): void {
    const values = this.#values;
    const share: ConfigShare = {
      ...{ path: values.string(node), tag: "", readOnly: false },
      ...{ allow: [], deny: [] },
    };
    const place = { ...values.place };
    for (const setting of nodes(node, "shareSetting")) {
      values.whole(setting, () => {
        if (has(setting, "ro") || has(setting, "rw")) {
          share.readOnly = has(setting, "ro");
          return;
        }
        const value = values.string(setting);
        if (has(setting, "tag")) share.tag = value;
        else if (has(setting, "allow")) share.allow.push(value);
        else if (has(setting, "deny")) share.deny.push(value);
        else if (values.owner(value) !== undefined) share.user = value;
      });
    }
    const { shares } = this.#vm;
    const wrong =
      (share.path.startsWith("/") ? undefined : `share: ${share.path} is no absolute path`) ??
      checkShare(share) ??
      (shares.some(({ tag }) => tag === share.tag)
        ? `another share has the tag ${share.tag}`
        : undefined);
    if (wrong !== undefined) values.error(wrong, place);
    else if (shares.length === MAX_SHARES) values.error("too many shares", place);
    else shares.push(share);
  }

  #vsock(node: Node): void {
    if (!this.#once("vsock")) return;
    const path = this.#values.string(node, "path");
    const number = this.#values.string(node, "cidNumber");
    const cid = this.#values.number(number, "vsock cid", 3, 2 ** 32 - 2);
    if (cid === undefined) return;
    const wrong = checkVsock({ cid, path });
    if (wrong !== undefined) this.#error(wrong);
    else this.#vm.vsock = { cid, path };
  }

  #portable(node: Node): void {
    if (!this.#once("portable")) return;
    if (!has(node, "tsc")) {
      this.#vm.portable = {};
      return;
    }
    const text = this.#values.string(node);
    const tscKhz = this.#values.number(text, "tsc, in kHz", TSC_KHZ_MIN, TSC_KHZ_MAX);
    if (tscKhz !== undefined) this.#vm.portable = { tscKhz };
  }

  #interface(node: Node): void {
    const card = plainInterface();
    const { interfaces } = this.#vm;
    const place = { ...this.#values.place };
    card.local = has(node, "local");
    if (has(node, "string")) {
      const name = this.#values.string(node);
      if (/^tap[0-9]{1,5}$/.test(name)) card.tap = name;
      else if (name !== "tap") this.#error(`invalid interface: ${name}`);
    }
    for (const option of nodes(node, "cardOption")) {
      this.#values.whole(option, () => this.#cardOption(card, option));
    }
    if (card.forwards !== undefined && (card.switch !== undefined || card.tap !== undefined)) {
      this.#values.error("forward is for user-mode networks, not for a switch or a tap", place);
    }
    interfaces.push(card);
    if (interfaces.length > MAX_INTERFACES) {
      this.#values.error(`too many interfaces: ${interfaces.length}`, place);
    }
  }

  #cardOption(card: ConfigInterface, option: Node): void {
    const values = this.#values;
    const [limit] = nodes(option, "limitOption");
    if (limit !== undefined) card.limits = { ...card.limits, ...this.#limits([limit]) };
    else if (has(option, "forward")) this.#forward(card, values.string(option, "ports"));
    else if (has(option, "up") || has(option, "down")) card.up = has(option, "up");
    else if (has(option, "groupName"))
      card.group = values.group(values.string(option, "groupName"));
    else if (has(option, "switchName")) card.switch = values.string(option, "switchName");
    else if (has(option, "domain")) card.rdomain = values.rdomain(values.string(option, "domain"));
    else if (has(option, "lladdr")) {
      card.lockedLladdr = has(option, "locked");
      if (!has(option, "address")) return;
      const address = values.string(option, "address");
      if (LLADDR.test(address)) card.lladdr = normalLladdr(address);
      else this.#error(`invalid lladdr: ${address}`);
    }
  }

  #forward(card: ConfigInterface, text: string): void {
    const forward = parsePortForward(text);
    const others = this.#vm.interfaces.concat(card).flatMap(({ forwards = [] }) => forwards);
    if (forward === undefined) {
      this.#error(`${text} is no port forward such as 2222:22 or 0.0.0.0:5353:53/udp`);
    } else if (others.some((one) => sameHostPort(one, forward))) {
      this.#error(`port forward ${formatPortForward(forward)}: the host's port leads elsewhere`);
    } else if (others.length === MAX_FORWARDS) this.#error("too many port forwards");
    else card.forwards = [...(card.forwards ?? []), forward];
  }

  #value(node: Node): void {
    const vm = this.#vm;
    const value = this.#values.string(node);
    const [what] = Object.keys(node.children).filter((name) => name !== "string");
    if (what !== "module" && what !== "device" && !this.#once(what)) return;
    switch (what) {
      case "cdrom":
        vm.cdrom = value;
        if (value.length > LONGEST_PATH) this.#error("cdrom name too long");
        return;
      case "cpus":
        vm.cpus = this.#values.number(value, "number of cpus", 1, MAX_CPUS);
        if ((vm.cpus ?? 1) > 1) this.#error("this machine has one CPU");
        return;
      case "interfaces":
        vm.interfaceCount = this.#values.number(value, "number of interfaces", 0, MAX_INTERFACES);
        return;
      case "memory":
        this.#memory(value);
        return;
      case "owner":
        vm.owner = this.#values.owner(value);
        return;
      case "initrd":
        vm.initrd = this.#path(value, "initrd");
        return;
      case "append":
        vm.append = value;
        if (value.length > LONGEST_LINE) this.#error("command line too long");
        return;
      case "module":
        this.#module(value);
        return;
      case "device":
        if (value !== "balloon" && value !== "console") this.#error(`unknown device: ${value}`);
        else if (!vm.devices.includes(value)) vm.devices.push(value);
        return;
      case "engine":
        if (value === "auto" || value === "kvm" || value === "unicorn") vm.engine = value;
        else this.#error(`unknown engine: ${value}`);
        return;
    }
  }

  #module(value: string): void {
    const { modules } = this.#vm;
    if (modules.length === MAX_MODULES) this.#error("too many modules");
    else if (value.length > LONGEST_LINE) this.#error("module too long");
    else {
      this.#path(value.split(" ", 1)[0], "module");
      modules.push(value);
    }
  }

  #memory(value: string): void {
    let bytes: number;
    try {
      bytes = parseSize(value);
    } catch {
      this.#error(`invalid size: ${value}`);
      return;
    }
    const whole = Math.floor(bytes / MIB) * MIB;
    if (whole < MIB) this.#error("size must be at least one megabyte");
    else if (whole > MAX_MEMORY) this.#error("memory size too large (limit is 128G)");
    else {
      if (whole !== bytes) this.#values.warning(`memory size rounded to ${whole / MIB}M`);
      this.#vm.memory = whole;
    }
  }
}

function plainInterface(): ConfigInterface {
  return { local: false, lockedLladdr: false, up: true };
}

/** "FE:1:..." is "fe:01:...". */
function normalLladdr(address: string): string {
  return address
    .toLowerCase()
    .split(":")
    .map((byte) => byte.padStart(2, "0"))
    .join(":");
}
