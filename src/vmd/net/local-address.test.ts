import { describe, expect, test } from "bun:test";
import { formatIpv4, parseIpv4 } from "./ipv4.ts";
import { formatPrefix, LOCAL_PREFIX, LocalAddressError, localAddresses } from "./local-address.ts";

describe("addresses of local interfaces", () => {
  test.each([
    [3, 0, "100.64.3.2", "100.64.3.3"],
    [3, 1, "100.64.3.4", "100.64.3.5"],
    [1, 0x7e, "100.64.1.254", "100.64.1.255"],
    [0x3fff, 0, "100.127.255.2", "100.127.255.3"],
  ])("of VM %i, interface %i", (id, place, host, guest) => {
    const addresses = localAddresses(LOCAL_PREFIX, id, place);
    expect(formatIpv4(addresses.host)).toBe(host);
    expect(formatIpv4(addresses.guest)).toBe(guest);
  });

  test("bits of the prefix that are the host's are not in them", () => {
    const { host } = localAddresses({ address: "10.255.7.9", length: 16 }, 2, 0);
    expect(formatIpv4(host)).toBe("10.255.2.2");
    expect(formatPrefix({ address: "10.255.7.9", length: 16 })).toBe("10.255.0.0/16");
    expect(formatPrefix({ address: "200.1.1.1", length: 1 })).toBe("128.0.0.0/1");
  });

  test.each([
    [{ address: "10.0.0.0", length: 16 }, 256, 0],
    [LOCAL_PREFIX, 0x4000, 0],
    [LOCAL_PREFIX, 0, 0],
    [LOCAL_PREFIX, 1, 0x7f],
    [LOCAL_PREFIX, 1, -1],
    [{ address: "10.0.0.0", length: 17 }, 1, 0],
    [{ address: "10.0.0.0", length: 0 }, 1, 0],
    [{ address: "10.0.0", length: 8 }, 1, 0],
  ])("there are none for %j, VM %i, interface %i", (prefix, id, place) => {
    expect(() => localAddresses(prefix, id, place)).toThrow(LocalAddressError);
  });
});

test("addresses as text", () => {
  expect(parseIpv4("255.255.255.255")).toBe(0xffffffff);
  expect(formatIpv4(0xffffffff)).toBe("255.255.255.255");
  for (const wrong of ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "a.b.c.d", "1.2.3.4 "]) {
    expect(parseIpv4(wrong)).toBeUndefined();
  }
});
