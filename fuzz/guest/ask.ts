/** Has a process of its own find something out about a guest: it is confined like a campaign's worker. */
import { writeSync } from "node:fs";
import { FuzzError } from "./machine.ts";

/** What such a process prints. */
type Answer =
  | { readonly found: unknown }
  /** A sentence. */
  | { readonly failure: string };

/**
 * @param program a module that calls `answer`
 * @param name of the guest: for messages
 * @param question JSON
 * @returns what it found, which is not to be believed before it is checked
 * @throws FuzzError: why it couldn't
 */
export async function ask(program: string, name: string, question: object): Promise<unknown> {
  const child = Bun.spawn([process.execPath, program], {
    stdin: new TextEncoder().encode(JSON.stringify(question)),
    stdout: "pipe",
    stderr: "inherit",
  });
  const text = await child.stdout.text();
  await child.exited;
  let said: Answer;
  try {
    said = JSON.parse(text) as Answer;
  } catch {
    const { signalCode, exitCode } = child;
    const how = signalCode === null ? `status ${exitCode}` : `signal ${signalCode}`;
    throw new FuzzError(`${name}: the process that tried it ended with ${how}`);
  }
  if ("failure" in said) throw new FuzzError(`${said.failure}`);
  return said.found;
}

/** Makes this process one that is asked. */
export async function answer<Question>(
  find: (question: Question) => Promise<unknown>,
): Promise<void> {
  let said: Answer;
  try {
    said = { found: await find(JSON.parse(await Bun.stdin.text()) as Question) };
  } catch (error) {
    said = { failure: error instanceof Error ? error.message : String(error) };
  }
  let bytes = new TextEncoder().encode(JSON.stringify(said));
  while (bytes.length > 0) bytes = bytes.subarray(writeSome(bytes));
}

function writeSome(bytes: Uint8Array): number {
  try {
    return writeSync(1, bytes);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
    Bun.sleepSync(1);
    return 0;
  }
}
