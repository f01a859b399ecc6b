/**
 * net/: what is at the other end of a VM's network interface: a tap of the host's, a port of a switch
 * between VMs, or passt. The room hands out descriptors and says what a frame on them looks like; it
 * knows no virtio device and no guest memory. What a guest has written is checked here, never
 * trusted, and never makes anything throw; the host's failures are a NetworkError, in one sentence.
 */
export { dhcpReply, type LocalLease } from "./dhcp.ts";
export { NetworkError } from "./host-command.ts";
export { formatIpv4, parseIpv4 } from "./ipv4.ts";
export { LOCAL_PREFIX, localAddresses, type LocalPrefix } from "./local-address.ts";
export { formatMac, isFrom, parseMac, randomMac } from "./mac.ts";
export {
  type InterfaceEnd,
  type InterfaceOwner,
  type InterfaceRequest,
  Networks,
  type NetworksOptions,
  type SwitchRequest,
} from "./networks.ts";
export { openedInterface } from "./opened.ts";
export { type PcapOptions, type PcapSink, PcapWriter } from "./pcap.ts";
export { formatPortForward, parsePortForward, type PortForward } from "./port-forward.ts";
export {
  checkPacket,
  completePacket,
  LONGEST_PACKET,
  NET_HEADER,
  Offload,
  offloadMessage,
} from "./switch.ts";
export { setTapOffloads } from "./tap.ts";
