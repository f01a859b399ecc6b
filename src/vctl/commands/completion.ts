/** vctl completion: a script that completes vctl's words in a shell. */
import { Argument, Command } from "commander";
import { print } from "../cli.ts";

interface Word {
  name: string;
  description: string;
  options: { flags: string[]; description: string }[];
  /** Takes a VM. */
  vm: boolean;
}

/** @param program whose commands there are */
export function completionCommand(program: Command): Command {
  return new Command("completion")
    .description("Print a script that completes vctl's words in a shell")
    .addArgument(new Argument("<shell>", "the shell").choices(["bash", "zsh", "fish"]))
    .addHelpText(
      "after",
      `
Examples:
  vctl completion bash > /etc/bash_completion.d/vctl
  vctl completion zsh > /usr/share/zsh/vendor-completions/_vctl
  vctl completion fish > ~/.config/fish/completions/vctl.fish`,
    )
    .action((shell: string) => {
      const words = program.commands.map(word);
      print(shell === "bash" ? bash(words) : shell === "zsh" ? zsh(words) : fish(words));
    });
}

function word(command: Command): Word {
  return {
    name: command.name(),
    description: command.description(),
    options: command.options.map(({ short, long, description }) => ({
      flags: [short, long].filter((flag) => flag !== undefined && flag !== null) as string[],
      description,
    })),
    vm: command.registeredArguments.some((argument) => /\bid\b/.test(argument.name())),
  };
}

/** The names of the VMs that there are, one a line. */
const NAMES = `vctl status 2>/dev/null | awk 'NR > 1 { print $NF }'`;

function bash(words: readonly Word[]): string {
  const cases = words
    .map(({ name, options, vm }) => {
      const flags = options.flatMap((option) => option.flags).join(" ");
      return `    ${name}) words="${flags}${vm ? ` $(${NAMES})` : ""}" ;;`;
    })
    .join("\n");
  return `# bash completion of vctl
_vctl() {
  local current="\${COMP_WORDS[COMP_CWORD]}" command="" word words=""
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in -*) ;; *) command="$word"; break ;; esac
  done
  case "$command" in
    "") words="${words.map(({ name }) => name).join(" ")}" ;;
${cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _vctl vctl
`;
}

const quoted = (text: string) => text.replaceAll("'", "'\\''");

function zsh(words: readonly Word[]): string {
  const list = words
    .map(({ name, description }) => `    '${name}:${quoted(description)}'`)
    .join("\n");
  const cases = words
    .map(({ name, options, vm }) => {
      const flags = options
        .flatMap(({ flags, description }) =>
          flags.map((flag) => `'${flag}[${quoted(description.replaceAll(/[[\]]/g, "\\$&"))}]'`),
        )
        .join(" ");
      return `    ${name}) _arguments ${flags} ${vm ? "'*:VM:($(_vctl_names))'" : "'*:file:_files'"} ;;`;
    })
    .join("\n");
  return `#compdef vctl
_vctl_names() { ${NAMES} }
_vctl() {
  local -a commands=(
${list}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
${cases}
  esac
}
_vctl "$@"
`;
}

function fish(words: readonly Word[]): string {
  const names = words.map(({ name }) => name).join(" ");
  const lines = [
    "# fish completion of vctl",
    `function __vctl_names; ${NAMES}; end`,
    "complete -c vctl -f",
    ...words.map(
      ({ name, description }) =>
        `complete -c vctl -n "not __fish_seen_subcommand_from ${names}" -a ${name} -d '${description.replaceAll("'", "\\'")}'`,
    ),
  ];
  for (const { name, options, vm } of words) {
    const seen = `-n "__fish_seen_subcommand_from ${name}"`;
    if (vm) lines.push(`complete -c vctl ${seen} -a "(__vctl_names)"`);
    else lines.push(`complete -c vctl ${seen} -F`);
    for (const { flags, description } of options) {
      const forms = flags.map((flag) =>
        flag.startsWith("--") ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`,
      );
      lines.push(
        `complete -c vctl ${seen} ${forms.join(" ")} -d '${description.replaceAll("'", "\\'")}'`,
      );
    }
  }
  return `${lines.join("\n")}\n`;
}
