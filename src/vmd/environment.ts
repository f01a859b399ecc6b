/** What a confined process needs of the environment. */
export function environment(): Record<string, string> {
  const names = ["VMM_NATIVE", "LD_PRELOAD", "ASAN_OPTIONS", "VMM_SANDBOX_TRACE", "VMD_PROBE"];
  const kept = names.flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value] as const];
  });
  return Object.fromEntries(kept);
}
