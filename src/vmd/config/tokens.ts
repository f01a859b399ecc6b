/** The words of vm.conf(5). */
import { createToken, Lexer, type TokenType } from "chevrotain";

/** A bare word: a name, a path, a number, an address. */
export const Word = createToken({ name: "Word", pattern: /[^\s{}=,#"'$\\]+/ });
export const Quoted = createToken({
  name: "Quoted",
  pattern: /"(?:[^"\\\n]|\\(?:\r\n|[\s\S]))*"|'(?:[^'\\\n]|\\(?:\r\n|[\s\S]))*'/,
  line_breaks: true,
});
export const Macro = createToken({ name: "Macro", pattern: /\$[A-Za-z0-9_]+/ });
export const Newline = createToken({ name: "Newline", pattern: /\n/, line_breaks: true });
export const LeftBrace = createToken({ name: "{", pattern: /\{/ });
export const RightBrace = createToken({ name: "}", pattern: /\}/ });
export const Comma = createToken({ name: ",", pattern: /,/ });
export const Equals = createToken({ name: "=", pattern: /=/ });
/** A string that its line doesn't end, up to there. */
export const Unfinished = createToken({ name: "unfinished string", pattern: /["'][^\r\n]*/ });
/** What begins nothing: with it no text fails to be tokens. */
const Stray = createToken({ name: "stray character", pattern: /[$\\]/ });
const Continued = createToken({
  name: "continued line",
  pattern: /\\\r?\n/,
  line_breaks: true,
  group: Lexer.SKIPPED,
});
const Space = createToken({ name: "space", pattern: /[ \t\r]+/, group: Lexer.SKIPPED });
const Comment = createToken({ name: "comment", pattern: /#[^\n]*/, group: Lexer.SKIPPED });

/** vmd's keywords, those of statements it doesn't have any more, and ours. */
const KEYWORDS = [
  "add",
  "agentx",
  "allow",
  "append",
  "boot",
  "burst",
  "cdrom",
  "cid",
  "context",
  "cpus",
  "delay",
  "deny",
  "device",
  "disable",
  "disk",
  "down",
  "enable",
  "engine",
  "format",
  "forward",
  "group",
  "id",
  "include",
  "inet6",
  "initrd",
  "instance",
  "interface",
  "interfaces",
  "lladdr",
  "local",
  "locked",
  "map",
  "memory",
  "module",
  "net",
  "operations",
  "owner",
  "parallel",
  "path",
  "portable",
  "prefix",
  "rate",
  "rdomain",
  "direct",
  "ro",
  "rw",
  "sev",
  "seves",
  "share",
  "size",
  "socket",
  "staggered",
  "start",
  "switch",
  "tag",
  "tsc",
  "up",
  "user",
  "vm",
  "vsock",
] as const;
export type Keyword = (typeof KEYWORDS)[number];

/** A keyword's token. */
export const keyword = Object.fromEntries(
  KEYWORDS.map((word) => [
    word,
    createToken({ name: word, pattern: new RegExp(word), longer_alt: Word }),
  ]),
) as Record<Keyword, TokenType>;

export const isKeyword = (word: string) => (KEYWORDS as readonly string[]).includes(word);

export const TOKENS = [
  Continued,
  Space,
  Comment,
  Newline,
  LeftBrace,
  RightBrace,
  Comma,
  Equals,
  Quoted,
  Unfinished,
  Macro,
  // The longer first: "interfaces" begins as "interface" does.
  ...Object.values(keyword).sort((a, b) => b.name.length - a.name.length),
  Word,
  Stray,
];

/** A string's text, without its quotes. A backslash that quotes nothing is one. */
export function unquote(image: string): string {
  return image.slice(1, -1).replaceAll(/\\(\r?\n|["'\\])/g, (_, quoted: string) => {
    return quoted.endsWith("\n") ? "" : quoted;
  });
}
