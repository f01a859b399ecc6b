/** From the grammar's tree to a Config: what statements mean, and what they may not say. */
import type { IToken } from "chevrotain";
import { statSync } from "node:fs";
import type { Accounts } from "../accounts.ts";
import { parseSize } from "../size.ts";
import type {
  Config,
  ConfigInstance,
  ConfigInterface,
  ConfigMessage,
  ConfigOwner,
  ConfigSwitch,
  ConfigVm,
  Place,
} from "./config.ts";
import type { CstNodeLike } from "./grammar.ts";
import type { PlacedToken } from "./source.ts";
import { text } from "./source.ts";

const MIB = 2 ** 20;
const MAX_MEMORY = 128 * 2 ** 30;
const MAX_VMS = 1024;
const MAX_DISKS = 4;
const MAX_INTERFACES = 4;
const MAX_CPUS = 64;
const MAX_MODULES = 16;
const LONGEST_NAME = 63;
const LONGEST_PATH = 1023;
const LONGEST_GROUP = 15;
const LONGEST_CONTEXT = 32;
const VM_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;
const LLADDR = /^(?:[0-9a-f]{1,2}:){5}[0-9a-f]{1,2}$/i;

type Node = CstNodeLike;

/** Whether a file is there; tests have another. */
export type PathCheck = (path: string) => boolean;

export const pathExists: PathCheck = (path) =>
  statSync(path, { throwIfNoEntry: false }) !== undefined;

/** @param accounts who the users and groups are. */
export function buildConfig(
  tree: Node,
  accounts: Accounts,
  exists: PathCheck,
): { config: Config; errors: ConfigMessage[] } {
  const builder = new Builder(accounts, exists);
  builder.file(tree);
  return { config: builder.config, errors: builder.errors };
}

function nodes(node: Node, name: string): Node[] {
  return (node.children[name] ?? []).filter((child): child is Node => "children" in child);
}

function tokens(node: Node, name: string): PlacedToken[] {
  return (node.children[name] ?? []).filter(
    (child): child is PlacedToken => !("children" in child),
  ) as PlacedToken[];
}

const has = (node: Node, name: string) => (node.children[name]?.length ?? 0) > 0;

/** All tokens of a node, in order. */
function leaves(node: Node): PlacedToken[] {
  const found = Object.values(node.children)
    .flat()
    .flatMap((child) => {
      if (child === undefined) return [];
      return "children" in child ? leaves(child) : [child as PlacedToken];
    });
  return found.filter(isReal).sort(inOrder);
}

// The parser makes tokens up where some are missing.
const isReal = (token: IToken) => token.payload !== undefined;
const inOrder = (a: PlacedToken, b: PlacedToken) => a.startOffset - b.startOffset;

class Builder {
  readonly errors: ConfigMessage[] = [];
  readonly config: Config = {
    vms: [],
    switches: [],
    localPrefix: { address: "100.64.0.0", length: 10 },
  };
  readonly #accounts: Accounts;
  readonly #exists: PathCheck;
  // Of the statement at hand, for what has no token.
  #place: Place = { file: "", line: 1 };

  constructor(accounts: Accounts, exists: PathCheck) {
    this.#accounts = accounts;
    this.#exists = exists;
  }

  file(tree: Node): void {
    for (const node of nodes(tree, "agentxStatement")) this.#whole(node, () => this.#agentx(node));
    for (const node of nodes(tree, "localStatement")) this.#whole(node, () => this.#local(node));
    for (const node of nodes(tree, "socketOwner")) {
      this.#whole(node, () => {
        this.config.socketOwner = this.#owner(this.#word(node));
      });
    }
    for (const node of nodes(tree, "staggeredStatement"))
      this.#whole(node, () => this.#staggered(node));
    for (const node of nodes(tree, "switchBlock")) this.#block(node, () => this.#switch(node));
    for (const node of nodes(tree, "vmBlock")) this.#block(node, () => this.#vm(node));
    this.#references();
  }

  #error(message: string, place: Place = this.#place): void {
    const { file, line } = place;
    this.errors.push({ file, line, message });
  }

  // A statement that was broken is reported already.
  #whole(node: Node, build: () => void): void {
    if (node.recoveredNode !== true) this.#block(node, build);
  }

  #block(node: Node, build: () => void): void {
    const [first] = leaves(node);
    if (first !== undefined) this.#place = first.payload;
    build();
  }

  #word(node: Node, label = "word"): string {
    const [word] = nodes(node, label);
    const [token] = word === undefined ? [] : leaves(word);
    if (token === undefined) return "";
    this.#place = token.payload;
    return text(token) ?? "";
  }

  /** Adjacent strings are one. */
  #string(node: Node, label = "string"): string {
    const [string] = nodes(node, label);
    if (string === undefined) return "";
    const parts = leaves(string);
    if (parts.length > 0) this.#place = parts[0].payload;
    return parts.map((token) => text(token) ?? "").join("");
  }

  #number(value: string, what: string, low: number, high: number): number | undefined {
    const number = /^[0-9]{1,10}$/.test(value) ? Number(value) : Number.NaN;
    if (number >= low && number <= high) return number;
    this.#error(`invalid ${what}: ${value}`);
    return undefined;
  }

  #agentx(node: Node): void {
    const context = has(node, "contextName") ? this.#word(node, "contextName") : undefined;
    const path = has(node, "pathName") ? this.#word(node, "pathName") : undefined;
    if (context !== undefined && context.length > LONGEST_CONTEXT) {
      this.#error("agentx context too large");
    }
    if (path !== undefined && !path.startsWith("/")) this.#error("path is not absolute");
    this.config.agentx = { context, path };
  }

  #local(node: Node): void {
    if (has(node, "inet6")) {
      if (!has(node, "prefix6")) {
        this.config.localInet6 = {};
        return;
      }
      const prefix = this.#word(node, "prefix6");
      const [address, length = ""] = prefix.split("/");
      if (!isIpv6(address) || !/^\d+$/.test(length) || Number(length) > 64) {
        this.#error(`invalid local inet6 prefix: ${prefix}`);
      } else this.config.localInet6 = { prefix };
      return;
    }
    const prefix = this.#word(node, "prefix4");
    const [address, length = "16"] = prefix.split("/");
    if (!isIpv4(address) || !/^\d+$/.test(length) || Number(length) < 1 || Number(length) > 16) {
      this.#error(`invalid local prefix: ${prefix}`);
    } else this.config.localPrefix = { address, length: Number(length) };
  }

  #staggered(node: Node): void {
    const parallel = this.#number(this.#word(node, "count"), "parallelism", 1, 10_000);
    const delay = this.#number(this.#word(node, "seconds"), "delay", 0, 86_400);
    if (parallel !== undefined && delay !== undefined) this.config.staggered = { parallel, delay };
  }

  /** "user", "user:group" or ":group". */
  #owner(value: string): ConfigOwner {
    const [user, group] = value.split(":", 2);
    const owner: ConfigOwner = {};
    if (user !== "") {
      const found = /^\d+$/.test(user) ? { uid: Number(user) } : this.#accounts.user(user);
      if (found === undefined) this.#error(`unknown user: ${user}`);
      owner.uid = found?.uid;
    }
    if (group !== undefined && group !== "") {
      const found = /^\d+$/.test(group) ? { gid: Number(group) } : this.#accounts.group(group);
      if (found === undefined) this.#error(`unknown group: ${group}`);
      owner.gid = found?.gid;
    }
    if (user === "" && (group === undefined || group === "")) this.#error("missing owner");
    return owner;
  }

  #group(value: string): string {
    if (value.length > LONGEST_GROUP || value === "") this.#error(`invalid group name: ${value}`);
    else if (/[0-9]$/.test(value)) {
      this.#error(`invalid group name: ${value} (it must not end in a digit)`);
    }
    return value;
  }

  #switch(node: Node): void {
    const name = this.#word(node);
    const place = this.#place;
    const item: ConfigSwitch = {
      name,
      enable: true,
      interface: "",
      lockedLladdr: false,
      up: true,
      file: place.file,
      line: place.line,
    };
    for (const option of nodes(node, "switchOption")) {
      this.#whole(option, () => this.#switchOption(item, option));
    }
    if (node.recoveredNode === true) return;
    if (item.interface === "") this.#error(`switch "${name}" is missing interface name`, place);
    const other = this.config.switches.find((one) => one.name === name);
    if (other !== undefined) {
      this.#error(`switch "${name}" defined twice (before at ${other.file}:${other.line})`, place);
    }
    this.config.switches.push(item);
  }

  #switchOption(item: ConfigSwitch, option: Node): void {
    if (has(option, "enable") || has(option, "disable")) item.enable = has(option, "enable");
    else if (has(option, "up") || has(option, "down")) item.up = has(option, "up");
    else if (has(option, "groupName")) item.group = this.#group(this.#word(option, "groupName"));
    else if (has(option, "interfaceName")) {
      item.interface = this.#word(option, "interfaceName");
      if (!/^[a-z][a-z0-9_.-]{0,14}$/i.test(item.interface)) {
        this.#error(`invalid interface: ${item.interface}`);
      }
    } else if (has(option, "domain")) {
      item.rdomain = this.#number(this.#word(option, "domain"), "rdomain", 0, 255);
    } else if (has(option, "locked")) item.lockedLladdr = true;
    else if (has(option, "add")) this.#error("syntax error");
  }

  #name(value: string): string {
    if (value === "") this.#error("missing VM name");
    else if (value.length > LONGEST_NAME) this.#error("vm name too long");
    else if (!VM_NAME.test(value) || /^[0-9]+$/.test(value)) {
      this.#error(`invalid VM name: ${value}`);
    }
    return value;
  }

  #vm(node: Node): void {
    const first = this.#name(this.#word(node, "name"));
    const place = this.#place;
    const instance = has(node, "instanceName")
      ? this.#name(this.#word(node, "instanceName"))
      : undefined;
    const vm: ConfigVm = {
      name: instance ?? first,
      parent: instance === undefined ? undefined : first,
      enable: true,
      disks: [],
      interfaces: [],
      modules: [],
      file: place.file,
      line: place.line,
    };
    const once = new Set<string>();
    for (const option of nodes(node, "vmOption")) {
      this.#whole(option, () => this.#vmOption(vm, option, once));
    }
    const count = vm.interfaceCount ?? 0;
    while (vm.interfaces.length < count) vm.interfaces.push(plainInterface());
    const { vms } = this.config;
    const other = vms.find((one) => one.name === vm.name);
    if (other !== undefined) {
      this.#error(`vm "${vm.name}" defined twice (before at ${other.file}:${other.line})`, place);
    }
    if (vms.length === MAX_VMS) this.#error(`more than ${MAX_VMS} VMs`, place);
    if (vms.length < MAX_VMS) vms.push(vm);
  }

  #vmOption(vm: ConfigVm, option: Node, once: Set<string>): void {
    const [allow] = nodes(option, "allowBlock");
    const [boot] = nodes(option, "bootOption");
    const [disk] = nodes(option, "diskOption");
    const [card] = nodes(option, "interfaceOption");
    const [value] = nodes(option, "valueOption");
    if (has(option, "enable") || has(option, "disable")) vm.enable = has(option, "enable");
    else if (has(option, "sev") || has(option, "seves")) {
      this.#error("SEV guests need hardware that this machine doesn't use");
    } else if (allow !== undefined) vm.instances = this.#allow(allow);
    else if (boot !== undefined) this.#boot(vm, boot, once);
    else if (disk !== undefined) this.#disk(vm, disk);
    else if (card !== undefined) this.#interface(vm, card);
    else if (value !== undefined) this.#value(vm, value, once);
  }

  #allow(node: Node): ConfigInstance {
    const right = (name: string) => has(node, name);
    return {
      boot: right("boot"),
      cpus: right("cpus"),
      cdrom: right("cdrom"),
      disk: right("disk"),
      // One is the statement's own.
      instance: tokens(node, "instance").length > 1,
      interface: right("interface"),
      memory: right("memory"),
      owner: has(node, "owner") ? this.#owner(this.#word(node)) : undefined,
    };
  }

  #once(once: Set<string>, what: string): boolean {
    if (once.has(what)) this.#error(`${what} specified more than once`);
    const first = !once.has(what);
    once.add(what);
    return first;
  }

  #boot(vm: ConfigVm, node: Node, once: Set<string>): void {
    if (has(node, "device")) {
      const device = (["cdrom", "disk", "net"] as const).find((name) => has(node, name));
      if (this.#once(once, "boot device")) vm.bootDevice = device;
      return;
    }
    const path = this.#string(node);
    if (!this.#once(once, "kernel")) return;
    vm.boot = path;
    if (path.length > LONGEST_PATH) this.#error("kernel name too long");
    else if (!this.#exists(path)) this.#error(`kernel path not found: ${path}`);
  }

  #disk(vm: ConfigVm, node: Node): void {
    const path = this.#string(node, "path");
    const place = this.#place;
    let format: "raw" | "qcow2" | undefined;
    if (has(node, "formatName")) {
      const name = this.#string(node, "formatName");
      if (name === "raw" || name === "qcow2") format = name;
      else this.#error(`unrecognized disk format ${name}`);
    }
    if (path.length > LONGEST_PATH) this.#error("disk path too long", place);
    else if (path === "") this.#error("missing disk path", place);
    if (vm.disks.length === MAX_DISKS) this.#error("too many disks", place);
    else vm.disks.push({ path, format });
  }

  #interface(vm: ConfigVm, node: Node): void {
    const card = plainInterface();
    card.local = has(node, "local");
    if (has(node, "word")) {
      const name = this.#word(node);
      if (/^tap[0-9]{1,5}$/.test(name)) card.tap = name;
      else if (name !== "tap") this.#error(`invalid interface: ${name}`);
    }
    const place = this.#place;
    for (const option of nodes(node, "cardOption")) {
      this.#whole(option, () => this.#cardOption(card, option));
    }
    vm.interfaces.push(card);
    if (vm.interfaces.length > MAX_INTERFACES) {
      this.#error(`too many interfaces: ${vm.interfaces.length}`, place);
    }
  }

  #cardOption(card: ConfigInterface, option: Node): void {
    if (has(option, "up") || has(option, "down")) card.up = has(option, "up");
    else if (has(option, "groupName")) card.group = this.#group(this.#word(option, "groupName"));
    else if (has(option, "switchName")) card.switch = this.#word(option, "switchName");
    else if (has(option, "domain")) {
      card.rdomain = this.#number(this.#word(option, "domain"), "rdomain", 0, 255);
    } else if (has(option, "lladdr")) {
      card.lockedLladdr = has(option, "locked");
      if (!has(option, "address")) return;
      const address = this.#word(option, "address");
      if (!LLADDR.test(address)) this.#error(`invalid lladdr: ${address}`);
      card.lladdr = address.toLowerCase();
    }
  }

  #value(vm: ConfigVm, node: Node, once: Set<string>): void {
    const value = this.#string(node);
    const [what] = Object.keys(node.children).filter((name) => name !== "string");
    if (what !== "module" && !this.#once(once, what)) return;
    switch (what) {
      case "cdrom":
        vm.cdrom = value;
        if (value.length > LONGEST_PATH) this.#error("cdrom name too long");
        return;
      case "cpus":
        vm.cpus = this.#number(value, "number of cpus", 1, MAX_CPUS);
        if ((vm.cpus ?? 1) > 1) this.#error("this machine has one CPU");
        return;
      case "interfaces":
        vm.interfaceCount = this.#number(value, "number of interfaces", 0, MAX_INTERFACES);
        return;
      case "memory":
        this.#memory(vm, value);
        return;
      case "owner":
        vm.owner = this.#owner(value);
        return;
      case "initrd":
        vm.initrd = value;
        if (value.length > LONGEST_PATH) this.#error("initrd name too long");
        else if (!this.#exists(value)) this.#error(`initrd path not found: ${value}`);
        return;
      case "append":
        vm.append = value;
        if (value.length > 4095) this.#error("command line too long");
        return;
      case "module":
        vm.modules.push(value);
        if (vm.modules.length > MAX_MODULES) this.#error("too many modules");
        return;
      case "engine":
        if (value === "auto" || value === "kvm" || value === "unicorn") vm.engine = value;
        else this.#error(`unknown engine: ${value}`);
        return;
    }
  }

  #memory(vm: ConfigVm, value: string): void {
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
    else vm.memory = whole;
  }

  /** What names something else must find it. */
  #references(): void {
    const { vms, switches } = this.config;
    const vmNames = new Set(vms.map(({ name }) => name));
    const switchNames = new Set(switches.map(({ name }) => name));
    for (const vm of vms) {
      if (vm.parent !== undefined && !vmNames.has(vm.parent)) {
        this.#error(`vm "${vm.parent}" not found for instance "${vm.name}"`, vm);
      }
      for (const { switch: name } of vm.interfaces) {
        if (name !== undefined && !switchNames.has(name)) {
          this.#error(`switch "${name}" not found`, vm);
        }
      }
    }
  }
}

function plainInterface(): ConfigInterface {
  return { local: false, lockedLladdr: false, up: true };
}

function isIpv4(text: string): boolean {
  const parts = text.split(".");
  return parts.length === 4 && parts.every((part) => /^\d{1,3}$/.test(part) && Number(part) < 256);
}

function isIpv6(text: string): boolean {
  try {
    return text.includes(":") && new URL(`http://[${text}]/`).hostname !== "";
  } catch {
    return false;
  }
}
