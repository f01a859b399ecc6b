/** From the grammar's tree to a Config: what statements mean, and what they may not say. */
import { isIPv4, isIPv6 } from "node:net";
import type { Config, ConfigSwitch, ConfigVm } from "./config.ts";
import type { Node } from "./grammar.ts";
import { has, nodes, type Surroundings, Values } from "./values.ts";
import { readVm } from "./vm-block.ts";

export type { PathCheck } from "./values.ts";

const MAX_VMS = 1024;
const LONGEST_NAME = 63;
const LONGEST_CONTEXT = 32;
/** Of a UNIX socket, as the kernel takes it. */
const LONGEST_SOCKET = 107;

/** What is wrong is left out, and reported to the surroundings' messages. */
export function buildConfig(tree: Node, surroundings: Surroundings): Config {
  return new Builder(surroundings).file(tree);
}

class Builder {
  readonly #values: Values;
  readonly #vms = new Map<string, ConfigVm>();
  readonly #switches = new Map<string, ConfigSwitch>();
  readonly #config: Config = {
    vms: [],
    switches: [],
    localPrefix: { address: "100.64.0.0", length: 10 },
  };

  constructor(surroundings: Surroundings) {
    this.#values = new Values(surroundings);
  }

  file(tree: Node): Config {
    const config = this.#config;
    const values = this.#values;
    const each = (name: string, look: (node: Node) => void) => {
      for (const node of nodes(tree, name)) values.whole(node, () => look(node));
    };
    each("agentxStatement", (node) => this.#agentx(node));
    each("localStatement", (node) => (has(node, "inet6") ? this.#inet6(node) : this.#inet4(node)));
    each("socketOwner", (node) => {
      config.socketOwner = values.owner(values.string(node));
    });
    each("staggeredStatement", (node) => this.#staggered(node));
    for (const node of nodes(tree, "switchBlock")) values.block(node, () => this.#switch(node));
    for (const node of nodes(tree, "vmBlock")) values.block(node, () => this.#vm(node));
    this.#references();
    return config;
  }

  #agentx(node: Node): void {
    const values = this.#values;
    const agentx: Config["agentx"] = {};
    if (has(node, "contextName")) {
      agentx.context = values.string(node, "contextName");
      if (agentx.context.length > LONGEST_CONTEXT) values.error("agentx context too large");
    }
    if (has(node, "pathName")) {
      agentx.path = values.string(node, "pathName");
      if (!agentx.path.startsWith("/")) values.error("path is not absolute");
      else if (agentx.path.length > LONGEST_SOCKET) values.error("agentx path too long");
    }
    this.#config.agentx = agentx;
  }

  #inet4(node: Node): void {
    const prefix = this.#values.string(node, "prefix4");
    const [, address, length = "16"] = /^([^/]*)(?:\/([0-9]{1,2}))?$/.exec(prefix) ?? [];
    if (address === undefined || !isIPv4(address) || Number(length) < 1 || Number(length) > 16) {
      this.#values.error(`invalid local prefix: ${prefix}`);
      return;
    }
    this.#config.localPrefix = { address, length: Number(length) };
  }

  #inet6(node: Node): void {
    this.#config.localInet6 = {};
    if (!has(node, "prefix6")) return;
    const prefix = this.#values.string(node, "prefix6");
    const [, address, length] = /^([0-9a-f:.]*)\/([0-9]{1,2})$/i.exec(prefix) ?? [];
    if (address === undefined || !isIPv6(address) || Number(length) > 64) {
      this.#values.error(`invalid local inet6 prefix: ${prefix}`);
      return;
    }
    this.#config.localInet6 = { prefix };
  }

  #staggered(node: Node): void {
    const values = this.#values;
    const parallel = values.number(values.string(node, "count"), "parallelism", 1, 10_000);
    const delay = values.number(values.string(node, "seconds"), "delay", 0, 86_400);
    if (parallel !== undefined && delay !== undefined) this.#config.staggered = { parallel, delay };
  }

  #switch(node: Node): void {
    const values = this.#values;
    const name = values.string(node);
    const { place } = values;
    const { file, line } = place;
    if (name.length > LONGEST_NAME) values.error("switch name too long");
    else if (name === "" && values.hasWhole(node, "string")) values.error("missing switch name");
    const item: ConfigSwitch = {
      ...{ name, enable: true, interface: "", lockedLladdr: false, up: true, file, line },
    };
    for (const option of nodes(node, "switchOption")) {
      values.whole(option, () => this.#switchOption(item, option));
    }
    const other = this.#switches.get(name);
    if (other !== undefined) {
      values.error(`switch "${name}" defined twice (before at ${other.file}:${other.line})`, place);
      return;
    }
    this.#switches.set(name, item);
    this.#config.switches.push(item);
    if (item.interface !== "" || node.recoveredNode === true) return;
    values.error(`switch "${name}" is missing interface name`, place);
  }

  #switchOption(item: ConfigSwitch, option: Node): void {
    const values = this.#values;
    if (has(option, "enable") || has(option, "disable")) item.enable = has(option, "enable");
    else if (has(option, "up") || has(option, "down")) item.up = has(option, "up");
    else if (has(option, "groupName"))
      item.group = values.group(values.string(option, "groupName"));
    else if (has(option, "domain")) item.rdomain = values.rdomain(values.string(option, "domain"));
    else if (has(option, "locked")) item.lockedLladdr = true;
    else if (has(option, "add")) values.error("syntax error");
    else if (has(option, "interfaceName")) {
      const name = values.string(option, "interfaceName");
      if (item.interface !== "") values.error("interface specified more than once");
      item.interface = name;
      if (!/^[a-z][a-z0-9_.-]{0,14}$/i.test(name)) values.error(`invalid interface: ${name}`);
    }
  }

  #vm(node: Node): void {
    const vm = readVm(node, this.#values);
    const { vms } = this.#config;
    const other = this.#vms.get(vm.name);
    if (other !== undefined) {
      const before = `${other.file}:${other.line}`;
      this.#values.error(`vm "${vm.name}" defined twice (before at ${before})`, vm);
    } else if (this.#vms.size < MAX_VMS) {
      this.#vms.set(vm.name, vm);
      vms.push(vm);
    } else if (this.#vms.size === MAX_VMS) {
      this.#vms.set(vm.name, vm);
      this.#values.error(`more than ${MAX_VMS} VMs`, vm);
    }
  }

  /** What names something else must find it. */
  #references(): void {
    for (const vm of this.#config.vms) {
      this.#parents(vm);
      for (const { switch: name } of vm.interfaces) {
        if (name !== undefined && !this.#switches.has(name)) {
          this.#values.error(`switch "${name}" not found`, vm);
        }
      }
    }
  }

  #parents(vm: ConfigVm): void {
    if (vm.parent === undefined) return;
    const parent = this.#vms.get(vm.parent);
    if (parent === undefined) {
      this.#values.error(`vm "${vm.parent}" not found for instance "${vm.name}"`, vm);
      return;
    }
    for (let next: ConfigVm | undefined = parent, i = 0; next !== undefined && i <= MAX_VMS; i++) {
      if (next === vm) {
        this.#values.error(`vm "${vm.name}" is an instance of itself`, vm);
        return;
      }
      next = next.parent === undefined ? undefined : this.#vms.get(next.parent);
    }
    const disks = new Set(parent.disks.map(({ path }) => path));
    if (vm.disks.some(({ path }) => disks.has(path))) {
      this.#values.error("an instance can't have a disk of its template", vm);
    }
    for (const what of ["lladdr", "tap"] as const) {
      const taken = new Set(parent.interfaces.map((card) => card[what]).filter(Boolean));
      if (!vm.interfaces.some((card) => taken.has(card[what]))) continue;
      const name = what === "tap" ? "tap interface" : "link address";
      this.#values.error(`an instance can't have a ${name} of its template`, vm);
    }
  }
}
