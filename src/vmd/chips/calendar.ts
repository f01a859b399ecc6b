/**
 * Calendar arithmetic for clock chips: the proleptic Gregorian calendar in whole days since
 * 1970-01-01, without allocation. Months count from 0 and may lie outside 0–11.
 */

/** Days from the start of March to the start of each month, March first. */
const SINCE_MARCH = new Uint16Array([0, 31, 61, 92, 122, 153, 184, 214, 245, 275, 306, 337]);
/** 0000-03-01 in days since 1970. */
const ORIGIN = -719_468;

/** The day on which a month starts. */
export function daysBefore(year: number, month: number): number {
  // Years that start in March have their leap day at the end.
  const march = year * 12 + month - 2;
  const y = Math.floor(march / 12);
  const leaps = Math.floor(y / 4) - Math.floor(y / 100) + Math.floor(y / 400);
  return ORIGIN + y * 365 + leaps + SINCE_MARCH[march - y * 12];
}

/** The year that a day lies in. */
export function yearOf(days: number): number {
  let year = 1970 + Math.floor(days / 365.2425);
  if (days < daysBefore(year, 0)) year--;
  else if (days >= daysBefore(year + 1, 0)) year++;
  return year;
}

/** The month of `year` that a day lies in. */
export function monthOf(days: number, year: number): number {
  let month = Math.min(11, Math.floor((days - daysBefore(year, 0)) / 29));
  while (days < daysBefore(year, month)) month--;
  return month;
}

/** Sunday is 1. */
export function dayOfWeek(days: number): number {
  return ((((days + 4) % 7) + 7) % 7) + 1;
}
