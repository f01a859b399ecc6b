/** Bun's sockets over descriptors that are connected already. */
import type { Socket, SocketHandler } from "bun";

/** What happens on one. */
export interface DescriptorHandler {
  data(socket: Socket<undefined>, data: Buffer): void;
  drain?(socket: Socket<undefined>): void;
  close(): void;
}

/** Takes the descriptor, which is closed with the socket. On a SOCK_SEQPACKET one, data is a message. */
export async function connectDescriptor(
  fd: number,
  { data, drain, close }: DescriptorHandler,
): Promise<Socket<undefined>> {
  const socket: SocketHandler<undefined> = { data, drain, close, error: close };
  // The option is there, its type isn't.
  return await Bun.connect({ fd, socket } as unknown as Bun.UnixSocketOptions<undefined>);
}
