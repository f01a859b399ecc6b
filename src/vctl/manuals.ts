/** The manual pages that are made of programs: which, and what they say beside. */
import { makeProgram as makeVmd } from "../vmd/daemon/program.ts";
import { manualPage } from "./manual.ts";
import { COMMANDS } from "./commands/index.ts";
import { makeProgram as makeVctl } from "./program.ts";

/** Pages by file name. */
export async function manuals(): Promise<Record<string, string>> {
  return {
    "vctl.8": manualPage(await makeVctl(COMMANDS), {
      section: 8,
      description: [
        "Controls virtual machines, most of them by way of vmd. Commands may be shortened to any prefix that names one.",
        "A VM is named by its id, a number, or its name: up to 63 letters, digits, dots, dashes and underscores. Sizes are written as 512M or 1.5G.",
        "An ordinary user has a vmd of its own, which is started when it is needed, unless the system's may be used. root uses the system's; where there is none, start -c runs its VM in the foreground.",
      ],
      sections: [
        [
          "FILES",
          [
            ".Bl -tag -width Ds",
            ".It Pa /var/run/vmd.sock",
            "Control socket of the system's vmd.",
            ".It Pa $XDG_RUNTIME_DIR/vmd.sock",
            "Control socket of a user's own.",
            ".El",
          ],
        ],
        [
          "ENVIRONMENT",
          [".Bl -tag -width Ds", ".It Ev VMD_SOCKET", "Another control socket.", ".El"],
        ],
        [
          "EXIT STATUS",
          [
            ".Nm",
            "exits 0 on success and 1 on any failure.",
            "With a console attached by start, it exits with the code of the VM's end: 0 for a power\\-off, 1 for a crash, the guest's own with",
            ".Fl \\-debug\\-exit .",
            ".Cm send",
            "exits 3 when it can't be known where the VM runs: it is paused then.",
          ],
        ],
      ],
      seeAlso: ["vm.conf 5", "vmd 8"],
    }),
    "vmd.8": manualPage(makeVmd(), {
      section: 8,
      description: [
        "Holds virtual machines: it starts those that vm.conf enables, and others when vctl asks. Each VM has a process of its own, which becomes the user _vmd, or nobody, and gives up its namespaces, files and most system calls before its guest's first instruction.",
        "Run by an ordinary user it does the same for that user, without a configuration file unless one is given.",
      ],
      sections: [
        [
          "SIGNALS",
          [
            ".Bl -tag -width Ds",
            ".It Dv SIGHUP",
            "Reads the configuration file again: what was stopped is forgotten, what runs goes on.",
            ".It Dv SIGTERM , SIGINT",
            "Asks all VMs to shut down, gives them 30 seconds, and ends.",
            ".El",
          ],
        ],
        [
          "FILES",
          [
            ".Bl -tag -width Ds",
            ".It Pa /etc/vm.conf",
            "Configuration, when root runs it.",
            ".It Pa /var/run/vmd.sock",
            "Control socket.",
            ".It Pa /etc/firmware/vmm\\-bios , /usr/share/seabios/bios.bin",
            "Firmware of VMs that boot from a disk or CD\\-ROM.",
            ".El",
          ],
        ],
      ],
      seeAlso: ["vm.conf 5", "vctl 8"],
    }),
  };
}
