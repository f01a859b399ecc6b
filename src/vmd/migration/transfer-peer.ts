/**
 * The other end of a guest's TCP connections, for a test; a program of its own, since it runs in another
 * network namespace. Port 5001 sends what can't be guessed, a piece at a time, and 5002 takes a stream
 * that repeats its first piece. At a line on standard input the first comes to its end; when both are
 * over, what came of them is printed as JSON.
 */
import { createHash, randomBytes } from "node:crypto";

const PIECE = 64 * 1024;
/** From one piece to the next, ms. */
const PAUSE = 20;
/** What a client may not have taken yet, bytes. */
const BEHIND = 2 ** 20;

const sum = createHash("md5");
const result = { sent: 0, sum: "", received: 0, wrong: 0 };
let ending = false;
let first = Buffer.alloc(0);

interface Sender {
  waiting: Uint8Array;
}

const over = Promise.withResolvers<void>();
const taken = Promise.withResolvers<void>();

function flush(socket: Bun.Socket<Sender>): void {
  const { waiting } = socket.data;
  const written = Math.max(0, socket.write(waiting));
  socket.data.waiting = waiting.subarray(written);
}

Bun.listen<Sender>({
  hostname: "0.0.0.0",
  port: 5001,
  // nc has nothing to send, and says so.
  allowHalfOpen: true,
  socket: {
    data() {},
    open(socket) {
      socket.data = { waiting: new Uint8Array() };
      const timer = setInterval(() => {
        flush(socket);
        if (socket.data.waiting.length > BEHIND) return;
        if (ending) {
          if (socket.data.waiting.length > 0) return;
          clearInterval(timer);
          socket.end();
          over.resolve();
          return;
        }
        const piece = randomBytes(PIECE);
        sum.update(piece);
        result.sent += PIECE;
        socket.data.waiting = Buffer.concat([socket.data.waiting, piece]);
        flush(socket);
      }, PAUSE);
    },
    drain: flush,
    error: () => over.resolve(),
  },
});

Bun.listen({
  hostname: "0.0.0.0",
  port: 5002,
  socket: {
    data(_, bytes) {
      const from = result.received;
      result.received += bytes.length;
      if (first.length < PIECE) first = Buffer.concat([first, bytes]).subarray(0, PIECE);
      for (let i = 0; i < bytes.length; i++) {
        if (bytes[i] !== first[(from + i) % PIECE]) result.wrong++;
      }
    },
    close: () => taken.resolve(),
    error: () => taken.resolve(),
  },
});

console.log("ready");
for await (const _ of console) {
  ending = true;
  break;
}
await Promise.all([over.promise, taken.promise]);
result.sum = sum.digest("hex");
console.log(JSON.stringify(result));
process.exit(0);
