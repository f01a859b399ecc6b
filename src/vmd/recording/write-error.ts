/** A recording can't be written: one sentence that names the file. */
export class RecordingWriteError extends Error {
  override name = "RecordingWriteError";
}
