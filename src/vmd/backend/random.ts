/** Bytes that look random and are the same in each run: Marsaglia's xorshift32. */
export function repeatableRandom(): (into: Uint8Array) => void {
  let state = 0x9e3779b9;
  return (into) => {
    for (let i = 0; i < into.length; i++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      into[i] = state;
    }
  };
}
