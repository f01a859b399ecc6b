import { VsockHeader, VsockOp } from "../../src/vmd/virtio/vsock-packet.ts";
import { type Choices, ChoicesWriter } from "../own/choices.ts";
import type { Target } from "../own/target.ts";
import { FuzzSockets } from "./net-backends.ts";
import { GuestRun } from "./guest.ts";
import { Rig } from "./rig.ts";
import { guestSeeds } from "./seeds.ts";

const [RECEIVE, TRANSMIT, EVENT] = [0, 1, 2];
const CID = 42;

let backend!: FuzzSockets;
const rig = new Rig((memory) => {
  backend = new FuzzSockets(memory);
  return { vsock: { backend, cid: CID } };
});

function packet(op: number, port: number, bytes: number): VsockHeader {
  const header = new VsockHeader();
  header.sourceCid = CID;
  header.destinationCid = 2;
  header.sourcePort = 5000 + port;
  header.destinationPort = 80;
  header.length = bytes;
  header.type = 1;
  header.op = op;
  header.bufAlloc = 65_536;
  return header;
}

const run = new GuestRun({
  device: 2,
  rig,
  backend,
  good(choices: Choices) {
    const how = choices.u8();
    if ((how & 3) === 0) return { queue: RECEIVE, parts: [44 + 16 * choices.u8()] };
    if ((how & 3) === 3 && (how & 4) !== 0) return { queue: EVENT, parts: [4] };
    const bytes = choices.u16() & 0xfff;
    const header = packet(choices.below(8), (how >> 3) & 3, bytes);
    header.flags = choices.u8() & 3;
    header.fwdCnt = choices.u8();
    if ((how & 0x80) !== 0) header.bufAlloc = choices.u16();
    return { queue: TRANSMIT, parts: [header.bytes, new Uint8Array(bytes)] };
  },
  event: (choices: Choices) => backend.event(choices.u8(), choices.u8()),
  probe({ queues: [receive, transmit] }) {
    receive.add([4096]);
    receive.kick();
    transmit.request([packet(VsockOp.REQUEST, 0, 0).bytes]);
    const [key] = backend.open.keys();
    backend.device.connected(key);
    rig.machine.idle();
    const [used] = receive.used();
    return used?.data[30] === VsockOp.RESPONSE;
  },
});

export const target: Target = {
  name: "virtio-vsock",
  about: "sockets between guest and host: packets, credit, connections in every state",
  maxInput: 1024,
  seeds: () =>
    guestSeeds([
      new ChoicesWriter().u8(0, 100),
      new ChoicesWriter().u8(1, 0, 0, 1, 0, 0),
      new ChoicesWriter().u8(1, 64, 0, 5, 0, 0),
      new ChoicesWriter().u8(1, 0, 0, 4, 3, 0),
      new ChoicesWriter().u8(7),
    ]),
  run: (input) => run.run(input),
};
