/**
 * Property tests run with one seed, so that a test run is the same everywhere; VMD_SEED gives another
 * for longer searches.
 */
import fc from "fast-check";

fc.configureGlobal({ seed: Number(process.env.VMD_SEED ?? 1) });
