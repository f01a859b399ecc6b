/** stub */
export function plant(_f: string, s: string, _c?: string): string { return s; }
