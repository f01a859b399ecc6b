/** Bytes that look random and are the same in each run: Marsaglia's xorshift32. */
export class RepeatableRandom {
  state = 0x9e3779b9;

  readonly fill = (into: Uint8Array): void => {
    let { state } = this;
    for (let i = 0; i < into.length; i++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      into[i] = state;
    }
    this.state = state;
  };
}

export function repeatableRandom(): (into: Uint8Array) => void {
  return new RepeatableRandom().fill;
}
