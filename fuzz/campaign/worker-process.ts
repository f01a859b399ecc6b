/** What a worker's process runs. */
import { serveWorker } from "./worker.ts";

serveWorker();
