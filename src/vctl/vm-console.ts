/** A console of a VM of vmd, in this terminal, until `~.` or the VM's end. */
import type { StreamName } from "../vmd/vm-messages.ts";
import { connectStream } from "../vmd/console-socket.ts";
import { say, UsageError } from "./cli.ts";
import { Client } from "./client.ts";
import { attach } from "./console.ts";

/** How a VM ended; undefined when the terminal was detached before. */
export interface ConsoleEnd {
  code: number;
  message: string;
}

/** @throws RefusedError, UsageError */
export async function followConsole(
  client: Client,
  vm: number | string,
  { stream = "console", late = false }: { stream?: StreamName; late?: boolean } = {},
): Promise<ConsoleEnd | undefined> {
  const { answer, descriptor } = client.callForDescriptor({ request: "console", vm, stream, late });
  return await followDescriptor(client, answer.vm, descriptor);
}

/**
 * @param id of the VM.
 * @param descriptor of its console, closed here.
 * @throws UsageError
 */
export async function followDescriptor(
  client: Client,
  id: number,
  descriptor: number,
): Promise<ConsoleEnd | undefined> {
  const connected = await connectStream(descriptor);
  let left = false;
  const leave = () => {
    left = true;
    connected.close();
  };
  const attachment = attach({ console: connected.stream }, leave);
  await connected.closed;
  await attachment.detach();
  if (attachment.failure !== undefined) throw new UsageError(attachment.failure);
  if (left) return undefined;
  const { ending } = client.call({ request: "wait", vm: id });
  say(ending.message);
  return ending;
}
