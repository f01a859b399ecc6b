/** How a VM process gives up what it doesn't need, before its guest's first instruction. */
import type { Confinement } from "./vm-messages.ts";

/** @returns what is missing, as a sentence; empty when nothing is. */
export function confine(confinement: Confinement | undefined): string {
  if (confinement === undefined) return "no sandbox was asked for";
  return "";
}
