/**
 * The daemon: it holds the VMs, and answers what clients ask. It opens files and starts processes;
 * it reads nothing that a guest wrote.
 */
import { HostAccounts } from "../accounts.ts";
import { type Request, type RequestOf, type VmStatus } from "../protocol.ts";
import { countExits } from "../exit-counts.ts";
import { Networks } from "../net/index.ts";
import { WarmPool } from "../warm-process.ts";
import type { Confinement } from "../vm-messages.ts";
import { type Answer, type Client, FrontDoor } from "./front-door.ts";
import type { Log } from "./log.ts";
import type { ManagedVm, VmContext } from "./managed-vm.ts";
import * as migrate from "./migrate.ts";
import { metricsText } from "./metrics.ts";
import { isAdministrator, isOwner, RESTRICTED } from "./permissions.ts";
import { notPermitted, RefusalError } from "./refusal.ts";
import { named, Registry } from "./registry.ts";
import { Templates } from "./fork.ts";
import { takeSnapshot } from "./snapshots.ts";
import type { Caller } from "./settings.ts";
import { type Stagger, StaggeredStart } from "./staggered.ts";
import { Starter } from "./starter.ts";
import { type Configuration, readConfiguration } from "./configuration.ts";

export interface DaemonOptions {
  /** Path of the control socket. */
  socket: string;
  /** Path of the configuration file; undefined for none. */
  config: string | undefined;
  /** A missing configuration file is none. */
  configOptional: boolean;
  macros: Record<string, string>;
  log: Log;
  /** Absent: nothing is confined. */
  confine: Confinement | undefined;
  /** Seconds without a VM and a client after which it ends; absent: never. */
  idle?: number;
}

/** How long VMs get to end when the daemon does, ms. */
const FAREWELL = 30_000;

export class Daemon {
  readonly #options: DaemonOptions;
  readonly #log: Log;
  readonly #registry: Registry;
  readonly #stagger: StaggeredStart;
  readonly #door: FrontDoor;
  readonly #networks: Networks;
  readonly #pool: WarmPool;
  readonly #templates: Templates;
  readonly #starter: Starter;
  readonly #uid = process.geteuid!();
  readonly #ended = Promise.withResolvers<number>();
  #configuration: Configuration;
  readonly #accounts = new HostAccounts();
  #closing = false;
  #idleSince = performance.now();

  /** @throws RefusalError for a wrong configuration, SocketError */
  static async start(options: DaemonOptions): Promise<Daemon> {
    const { config, configOptional, macros, log } = options;
    return new Daemon(
      options,
      await readConfiguration(config, { optional: configOptional, macros, log }),
    );
  }

  private constructor(options: DaemonOptions, configuration: Configuration) {
    this.#options = options;
    this.#log = options.log;
    const { log, confine } = options;
    this.#configuration = configuration;
    this.#pool = new WarmPool(confine);
    this.#templates = new Templates(this.#pool);
    this.#networks = new Networks({
      switches: configuration.switches,
      localPrefix: configuration.localPrefix,
      confine,
      warn: (message) => log.warn(message),
    });
    const context: VmContext = {
      log,
      accounts: () => this.#accounts.now(),
      confine,
      networks: this.#networks,
      pool: this.#pool,
      stopped: (vm) => this.#stopped(vm),
    };
    this.#registry = new Registry(context);
    this.#stagger = new StaggeredStart(log);
    this.#starter = new Starter({
      registry: this.#registry,
      stagger: this.#stagger,
      pool: this.#pool,
      templates: this.#templates,
    });
    this.#door = new FrontDoor({
      path: options.socket,
      owner: this.#configuration.socketOwner,
      confine,
      log,
      handle: (request, client) => this.#handle(request, client),
      broken: (why) => {
        log.warn(why);
        void this.close(1);
      },
    });
    log.info("listening", { socket: options.socket, pid: process.pid });
    this.#apply(this.#configuration);
    if (options.idle !== undefined) setInterval(() => this.#look(options.idle!), 1000);
  }

  /** Resolves with the exit code when it is to end. */
  get ended(): Promise<number> {
    return this.#ended.promise;
  }

  /** Reads the configuration again. @throws RefusalError */
  async reload(): Promise<void> {
    const { config, configOptional, macros } = this.#options;
    const log = this.#log;
    const read = await readConfiguration(config, { optional: configOptional, macros, log });
    this.#forgetStopped();
    this.#apply(read);
    log.info("configuration reloaded", { file: config });
  }

  /** Stops all VMs, in order where they can be asked, and ends. */
  async close(code = 0): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    this.#stagger.remove();
    const running = this.#registry.all.filter((vm) => vm.isUp);
    for (const vm of running) if (vm.pid !== undefined) vm.stop(false);
    const all = Promise.all(running.map((vm) => vm.whenStopped()));
    await Promise.race([all, Bun.sleep(FAREWELL)]);
    for (const vm of running) if (vm.isUp) vm.host.kill();
    await Promise.race([all, Bun.sleep(1000)]);
    this.#door.close();
    this.#networks[Symbol.dispose]();
    this.#pool[Symbol.dispose]();
    this.#templates[Symbol.dispose]();
    this.#log.info("ended", { pid: process.pid });
    this.#ended.resolve(code);
  }

  async #handle(request: Request, client: Client): Promise<Answer> {
    if (this.#closing) throw new RefusalError("EAGAIN", "vmd is ending");
    const accounts = this.#accounts.now();
    const groups = accounts.groupsOf(client.uid, client.gid);
    const caller: Caller = { uid: client.uid, gid: client.gid, groups };
    const administrator = isAdministrator(caller, this.#uid);
    if (RESTRICTED.has(request.request) && !administrator) {
      this.#log.warn("denied request", { request: request.request, uid: client.uid });
      throw notPermitted();
    }
    this.#log.debug("request", { request: request.request, uid: client.uid, pid: client.pid });
    const mine = (reference: number | string): ManagedVm => {
      const vm = this.#registry.get(reference);
      if (!administrator && !isOwner(caller, vm.operator)) throw notPermitted();
      return vm;
    };
    switch (request.request) {
      case "hello":
        return {
          reply: { version: 1, pid: process.pid, uid: this.#uid, vms: this.#registry.size },
        };
      case "status":
        return { reply: { vms: this.#status(request) } };
      case "show":
        return { reply: { vm: await this.#show(mine(request.vm)) } };
      case "start":
        return await this.#starter.start(request, caller, administrator);
      case "stop":
        return { reply: await this.#stop(request, mine, client) };
      case "wait": {
        const vm =
          this.#registry.find(request.vm) ??
          this.#registry.findGone(request.vm) ??
          this.#registry.get(request.vm);
        await untilGone(vm.whenStopped(), client);
        const { kind, code, message } = vm.lastEnding ?? {};
        return { reply: { ...named(vm), ending: { kind, code, message } } };
      }
      case "pause":
      case "unpause": {
        const vm = mine(request.vm);
        await vm[request.request]();
        return { reply: named(vm) };
      }
      case "console": {
        const vm = mine(request.vm);
        const { stream, lossless, late } = request;
        const descriptor = vm.attach(stream, { lossless, late });
        return { reply: { ...named(vm), tty: vm.tty ?? null }, descriptor };
      }
      case "capture": {
        const vm = mine(request.vm);
        return { reply: named(vm), descriptor: vm.capture(request.interface) };
      }
      case "snapshot": {
        const vm = mine(request.vm);
        return { reply: { ...named(vm), ...(await takeSnapshot(vm, request, caller)) } };
      }
      case "fork": {
        const vm = mine(request.vm);
        return { reply: await this.#starter.fork(request, vm, caller, administrator) };
      }
      case "restore":
        return await this.#starter.restore(request, caller, administrator);
      case "send":
        return migrate.send(request, mine(request.vm));
      case "migration": {
        // It may have gone before its sender has heard of it.
        const vm = this.#registry.find(request.vm) ?? this.#registry.findGone(request.vm);
        if (vm === undefined) throw new RefusalError("ENOENT", "vm not found");
        if (!administrator && !isOwner(caller, vm.operator)) throw notPermitted();
        return await migrate.progress(request.after, vm);
      }
      case "receive": {
        const existing = this.#registry.find(request.vm);
        if (existing !== undefined) this.#stagger.remove([existing]);
        return await migrate.receive(request, caller, this.#registry, (vm, error) => {
          const message = error === undefined ? "received" : "not received";
          this.#log.info(message, { vm: vm.name, why: (error as Error | undefined)?.message });
        });
      }
      case "balloon":
        return { reply: { balloon: await mine(request.vm).balloon(request.target) } };
      case "registers": {
        const vm = mine(request.vm);
        const { text } = await vm.host.ask({ kind: "registers" }, "registers");
        return { reply: { ...named(vm), text: text.slice(0, 20_000) } };
      }
      case "exits": {
        const vm = mine(request.vm);
        return { reply: { ...named(vm), ...(await countExits(vm.host, request.time)) } };
      }
      case "metrics":
        return { reply: { text: await metricsText(this.#registry.all, this.#door.clients) } };
      case "load": {
        const { macros } = this.#options;
        const log = this.#log;
        this.#apply(await readConfiguration(request.path, { optional: false, macros, log }));
        log.info("configuration loaded", { file: request.path });
        return { reply: {} };
      }
      case "reload":
        await this.reload();
        return { reply: {} };
      case "reset":
        return { reply: await this.#reset(request.what) };
      case "log":
        this.#log.level = request.level;
        return { reply: { level: request.level } };
    }
  }

  #status({ vm, running }: RequestOf<"status">): VmStatus[] {
    const vms = vm === undefined ? this.#registry.all : [this.#registry.get(vm)];
    return vms.filter((one) => !running || one.isUp).map((one) => one.status());
  }

  async #show(vm: ManagedVm): Promise<Record<string, unknown>> {
    const { settings } = vm;
    const { disks, cdrom, interfaces, kernel, initrd, cmdline, machine, bootDevice } = settings;
    const statistics =
      vm.pid === undefined
        ? null
        : (await vm.host.ask({ kind: "statistics" }, "statistics")).statistics;
    return {
      ...vm.status(),
      kernel: kernel?.path ?? null,
      initrd: initrd?.path ?? null,
      cmdline: cmdline ?? null,
      bootDevice: bootDevice ?? null,
      disks: disks.map(({ path, format, readOnly }) => {
        return { path, format: format ?? null, readOnly: readOnly ?? false };
      }),
      cdrom: cdrom?.path ?? null,
      interfaces: interfaces.map((one, place) => ({
        ...one,
        where: vm.interfaces[place] ?? null,
        mac: vm.macs[place] ?? null,
      })),
      machine,
      instances: settings.instances ?? null,
      statistics,
      lastEnding: vm.lastEnding?.message ?? null,
    };
  }

  async #stop(
    { vm, force, wait }: RequestOf<"stop">,
    mine: (reference: number | string) => ManagedVm,
    client: Client,
  ): Promise<Record<string, unknown>> {
    const targets =
      vm === undefined
        ? this.#registry.all.filter((one) => one.pid !== undefined).map((one) => mine(one.id))
        : [mine(vm)];
    for (const one of targets) {
      if (one.state === "waiting") this.#stagger.remove([one]);
      else one.stop(force);
    }
    if (wait) await untilGone(Promise.all(targets.map((one) => one.whenStopped())), client);
    return { vms: targets.map(named) };
  }

  async #reset(what: "all" | "switches" | "vms"): Promise<Record<string, unknown>> {
    if (what !== "vms") {
      this.#configuration = { ...this.#configuration, switches: [] };
      this.#networks.switches = [];
    }
    if (what !== "switches") {
      this.#stagger.remove();
      const up = this.#registry.all.filter((vm) => vm.pid !== undefined);
      for (const vm of up) vm.stop(true);
      await Promise.all(up.map((vm) => vm.whenStopped()));
      this.#forgetStopped();
    }
    this.#log.info("reset", { what });
    return { what };
  }

  #forgetStopped(): void {
    this.#stagger.remove();
    for (const vm of this.#registry.all) if (!vm.isUp) this.#registry.remove(vm);
  }

  #apply(configuration: Configuration): void {
    this.#configuration = configuration;
    this.#networks.switches = configuration.switches;
    const added: ManagedVm[] = [];
    for (const { settings, enable } of configuration.vms) {
      if (this.#registry.find(settings.name) !== undefined) {
        this.#log.warn("is there already: left as it is", { vm: settings.name });
        continue;
      }
      const vm = this.#registry.add(settings);
      if (enable) added.push(vm);
    }
    const stagger: Stagger = configuration.stagger;
    this.#stagger.add(added, stagger);
  }

  #stopped(vm: ManagedVm): void {
    this.#idleSince = performance.now();
    if (!vm.settings.configured) this.#registry.remove(vm);
    this.#log.forget(vm.name);
  }

  #look(idle: number): void {
    const busy = this.#door.clients > 0 || this.#registry.all.some((vm) => vm.isUp);
    if (busy || this.#stagger.length > 0) this.#idleSince = performance.now();
    if (performance.now() - this.#idleSince > idle * 1000) void this.close();
  }
}

/** Waits, but not for a client that is gone. */
async function untilGone(what: Promise<unknown>, { gone }: Client): Promise<void> {
  await new Promise<void>((resolve) => {
    gone.addEventListener("abort", () => resolve(), { once: true });
    void what.then(() => resolve());
  });
}
