import { describe, expect, test } from "bun:test";
import { EngineError, ENGINES, probe } from "./engine.ts";
import { selectEngine, selfTest, whyNotKvm } from "./select.ts";

const kvm = whyNotKvm();
const unicorn = probe("unicorn").available;

describe("the user names an engine", () => {
  test.each(ENGINES)("%s is used, or is refused by name with a reason", (name) => {
    const { available, why } = probe(name);
    if (available) expect(selectEngine(name)).toEqual({ engine: name, why: "" });
    else expect(() => selectEngine(name)).toThrow(new EngineError(`engine ${name}: ${why}`));
  });
});

describe("auto", () => {
  test.skipIf(kvm !== undefined)("is KVM where stock kernels run on it", () => {
    expect(selectEngine()).toEqual({ engine: "kvm", why: "" });
  });

  test.skipIf(kvm === undefined || !unicorn)("else Unicorn, and says in a sentence why", () => {
    const { engine, why } = selectEngine("auto");
    expect(engine).toBe("unicorn");
    expect(why).toBe(`KVM is not used, since ${kvm}`);
    expect(why).not.toMatch(/[.\n]$/);
  });

  test.skipIf(kvm === undefined || unicorn)("with neither, both reasons", () => {
    expect(() => selectEngine()).toThrow(/^no engine: kvm: .+; unicorn: .+/);
  });
});

test("the self-test guest decides about KVM, and gives the same answer again", () => {
  if (!probe("kvm").available) return;
  const failure = selfTest("kvm");
  expect(kvm === undefined).toBe(failure === undefined);
  if (failure !== undefined) expect(kvm).toContain(failure);
  expect(whyNotKvm()).toBe(kvm);
});

test.skipIf(!unicorn)("the self-test guest passes on Unicorn", () => {
  expect(selfTest("unicorn")).toBeUndefined();
});
