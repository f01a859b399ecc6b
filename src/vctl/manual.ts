/** Manual pages in mdoc(7), made of a program's own commands and options. */
import type { Command, Option } from "commander";

/** What a page says beyond commands and options. */
export interface ManualProse {
  /** Section of the manual. */
  section: number;
  /** Paragraphs. */
  description: readonly string[];
  /** Further sections: title, and mdoc lines. */
  sections: readonly (readonly [string, readonly string[]])[];
  seeAlso: readonly string[];
}

/** Text in mdoc: no line of it is a request. */
export function escape(text: string): string {
  return text
    .replaceAll("\\", "\\e")
    .replaceAll(/^([.'])/gm, "\\&$1")
    .replaceAll("-", "\\-");
}

function optionLines(options: readonly Option[]): string[] {
  const visible = options.filter((option) => !option.hidden);
  if (visible.length === 0) return [];
  return [
    ".Bl -tag -width Ds",
    ...visible.flatMap((option) => {
      const value = /[<[].*$/.exec(option.flags)?.[0];
      const names = [option.short, option.long].filter(
        (name) => name !== undefined && name !== null,
      );
      const flags = names.map((name) => `Fl ${escape(name.slice(1))}`).join(" , ");
      const argument = value === undefined ? "" : ` Ar ${escape(value.replaceAll(/[<>[\]]/g, ""))}`;
      const choices = option.argChoices ?? [];
      const among = choices.length === 0 ? "" : ` (${choices.join(", ")})`;
      return [`.It ${flags}${argument}`, `${sentence(escape(option.description + among))}`];
    }),
    ".El",
  ];
}

function sentence(text: string): string {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.)]$/.test(first) ? `${first.replace(/\)$/, ").")}` : `${first}.`;
}

function commandLines(command: Command): string[] {
  const args = command.registeredArguments.map((argument) => {
    const name = escape(argument.name());
    return argument.required ? ` Ar ${name}` : ` Op Ar ${name}`;
  });
  const options = command.options.some((option) => !option.hidden) ? " Op Ar options" : "";
  return [
    `.It Cm ${command.name()}${options}${args.join("")}`,
    sentence(escape(command.description())),
    ...optionLines(command.options),
  ];
}

/** The page. Every line of it ends in a newline. */
export function manualPage(program: Command, prose: ManualProse): string {
  const name = program.name();
  const paragraphs = prose.description.flatMap((text, i) => [
    ...(i > 0 ? [".Pp"] : []),
    escape(text),
  ]);
  const commands = program.commands.toSorted((a, b) => (a.name() < b.name() ? -1 : 1));
  const lines = [
    `.\\" Made of ${name}'s own commands and options by setup/man.ts: change those.`,
    ".Dd $Mdocdate$",
    `.Dt ${name.toUpperCase()} ${prose.section}`,
    ".Os",
    ".Sh NAME",
    `.Nm ${name}`,
    `.Nd ${program.description().charAt(0).toLowerCase()}${program.description().slice(1)}`,
    ".Sh SYNOPSIS",
    `.Nm ${name}`,
    ...(commands.length > 0
      ? [".Op Fl v", ".Ar command", ".Op Ar arg ..."]
      : [".Op Fl dnv", ".Op Fl D Ar macro=value", ".Op Fl f Ar file"]),
    ".Sh DESCRIPTION",
    ...paragraphs,
    ".Pp",
    "The options are:",
    ...optionLines(program.options),
    ...(commands.length === 0
      ? []
      : [".Sh COMMANDS", ".Bl -tag -width Ds", ...commands.flatMap(commandLines), ".El"]),
    ...prose.sections.flatMap(([title, text]) => [`.Sh ${title}`, ...text]),
    ".Sh SEE ALSO",
    ...prose.seeAlso.map((page, i) => `.Xr ${page}${i < prose.seeAlso.length - 1 ? " ," : ""}`),
  ];
  return `${lines.join("\n")}\n`;
}
