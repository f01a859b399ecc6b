/** How a campaign opens an executor on our own code, in each of its processes. */
import type { FunctionExecutor } from "./executor.ts";

/** @throws Error: there is no such target */
export async function open({ target: name }: { target: string }): Promise<FunctionExecutor> {
  // Before anything of src/ is loaded.
  await import("./plugin.ts");
  const { loadTarget } = await import("../targets/index.ts");
  const { FunctionExecutor } = await import("./executor.ts");
  const target = await loadTarget(name);
  if (target === undefined) throw new Error(`there is no target "${name}".`);
  return new FunctionExecutor(target);
}
