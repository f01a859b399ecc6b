/** Numbers as people read them. */

const UNITS = [
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
] as const;

/** 12, 1.23 k, 45.6 M */
export function shortNumber(value: number): string {
  for (const [size, unit] of UNITS) {
    if (value < size * 0.9995) continue;
    const scaled = value / size;
    return `${scaled.toFixed(scaled < 9.995 ? 2 : scaled < 99.95 ? 1 : 0)} ${unit}`;
  }
  return value < 10 && !Number.isInteger(value) ? value.toFixed(1) : String(Math.round(value));
}

/** 3 s, 2 min 5 s, 1 h 2 min, 3 d 4 h */
export function duration(seconds: number): string {
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** 100 %, 99.98 %; never 100 unless all are. */
export function percent(ratio: number | null): string {
  if (ratio === null) return "–";
  if (ratio === 1) return "100 %";
  return `${(Math.floor(ratio * 10_000) / 100).toFixed(2)} %`;
}
