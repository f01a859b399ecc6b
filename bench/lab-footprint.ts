/** The footprint on KVM, measured in the lab; prints a round's figures each as JSON. */
import { type Footprint, measureFootprint } from "./private.ts";

const footprints: Footprint[] = [];
while (footprints.length < Number(process.argv[2])) footprints.push(await measureFootprint("kvm"));
console.log(JSON.stringify(footprints));
