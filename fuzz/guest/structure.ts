/**
 * Inputs with a structure: a campaign's bytes are the choices of a fast-check arbitrary, and what its
 * values are encoded to is what the guest gets. A module of the user's says both.
 */
import type { Arbitrary } from "fast-check";
import { FuzzError } from "./machine.ts";

/** What such a module exports. */
export interface Structure {
  readonly arbitrary: Arbitrary<unknown>;
  readonly encode: (value: unknown) => Uint8Array;
}

/** Bytes of choices: each takes four. */
export const CHOICES_MAX = 4096;

/** @returns from a campaign's bytes to the guest's @throws FuzzError */
export async function openStructure(
  path: string,
): Promise<(input: Uint8Array, length: number) => Uint8Array> {
  let module: Partial<Structure>;
  try {
    module = (await import(path)) as Partial<Structure>;
  } catch (error) {
    throw new FuzzError(`${path}: ${(error as Error).message}`);
  }
  const { arbitrary, encode } = module;
  if (typeof arbitrary?.generate !== "function" || typeof encode !== "function") {
    throw new FuzzError(`${path}: it must export an arbitrary and a function encode`);
  }
  // It needs fast-check, which only those who write such modules have to have.
  const { Decoder } = await import("../campaign/decoder.ts");
  const decoder = new Decoder(arbitrary);
  return (input, length) => encode(decoder.decode(input, length));
}
