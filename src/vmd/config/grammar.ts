/** The grammar of vm.conf(5). After an error it goes on at the next statement. */
import { type CstNode, CstParser, EMPTY_ALT, type IToken, type ParserMethod } from "chevrotain";
import { MOST_ERRORS } from "./messages.ts";
import {
  Comma,
  type Keyword,
  keyword as k,
  LeftBrace,
  Newline,
  Quoted,
  RightBrace,
  TOKENS,
  Word,
} from "./tokens.ts";

class VmConfParser extends CstParser {
  /** @param validate whether to look for ambiguities in the grammar itself. */
  constructor(validate = false) {
    super(TOKENS, { recoveryEnabled: true, maxLookahead: 1, skipValidations: !validate });
    this.performSelfAnalysis();
  }

  #keyword(word: Keyword) {
    return this.CONSUME(k[word]);
  }

  // Each error in a repetition is a level of recursion: there is an end to them.
  #while(body: () => void): void {
    this.MANY({ GATE: () => this.errors.length < MOST_ERRORS, DEF: body });
  }

  #statements(option: ParserMethod<[], CstNode>): void {
    this.#while(() => {
      this.OR9([
        { ALT: () => this.SUBRULE9(this.separator) },
        {
          ALT: () => {
            this.SUBRULE9(option);
            this.SUBRULE9(this.end);
          },
        },
      ]);
    });
  }

  readonly file = this.RULE("file", () => {
    this.#while(() => {
      this.OR([
        { ALT: () => this.CONSUME(Newline) },
        { ALT: () => this.SUBRULE(this.agentxStatement) },
        { ALT: () => this.SUBRULE(this.localStatement) },
        { ALT: () => this.SUBRULE(this.socketOwner) },
        { ALT: () => this.SUBRULE(this.staggeredStatement) },
        { ALT: () => this.SUBRULE(this.switchBlock) },
        { ALT: () => this.SUBRULE(this.vmBlock) },
      ]);
    });
  });

  /** A string, or several that become one. */
  readonly string = this.RULE("string", () => {
    this.AT_LEAST_ONE(() => {
      this.OR([{ ALT: () => this.CONSUME(Word) }, { ALT: () => this.CONSUME(Quoted) }]);
    });
  });

  readonly agentxStatement = this.RULE("agentxStatement", () => {
    this.#keyword("agentx");
    this.OPTION1(() => {
      this.CONSUME(k.context);
      this.SUBRULE1(this.string, { LABEL: "contextName" });
    });
    this.OPTION2(() => {
      this.CONSUME(k.path);
      this.SUBRULE2(this.string, { LABEL: "pathName" });
    });
    this.CONSUME(Newline);
  });

  readonly localStatement = this.RULE("localStatement", () => {
    this.CONSUME(k.local);
    this.OR([
      {
        ALT: () => {
          this.CONSUME(k.inet6);
          this.OPTION(() => {
            this.CONSUME2(k.prefix);
            this.SUBRULE2(this.string, { LABEL: "prefix6" });
          });
        },
      },
      {
        ALT: () => {
          this.CONSUME1(k.prefix);
          this.SUBRULE1(this.string, { LABEL: "prefix4" });
        },
      },
    ]);
    this.CONSUME(Newline);
  });

  readonly socketOwner = this.RULE("socketOwner", () => {
    this.CONSUME(k.socket);
    this.CONSUME(k.owner);
    this.SUBRULE(this.string);
    this.CONSUME(Newline);
  });

  readonly staggeredStatement = this.RULE("staggeredStatement", () => {
    this.CONSUME(k.staggered);
    this.CONSUME(k.start);
    this.CONSUME(k.parallel);
    this.SUBRULE1(this.string, { LABEL: "count" });
    this.CONSUME(k.delay);
    this.SUBRULE2(this.string, { LABEL: "seconds" });
    this.CONSUME(Newline);
  });

  readonly separator = this.RULE("separator", () => {
    this.OR([{ ALT: () => this.CONSUME(Newline) }, { ALT: () => this.CONSUME(Comma) }]);
  });

  /** After a statement of a block; the last one's is the block's. */
  readonly end = this.RULE("end", () => {
    this.OR([
      { ALT: () => this.CONSUME(Newline) },
      { ALT: () => this.CONSUME(Comma) },
      { GATE: () => this.LA(1).tokenType === RightBrace, ALT: EMPTY_ALT() },
    ]);
  });

  readonly switchBlock = this.RULE("switchBlock", () => {
    this.CONSUME(k.switch);
    this.SUBRULE(this.string);
    this.CONSUME(LeftBrace);
    this.#statements(this.switchOption);
    this.CONSUME(RightBrace);
    this.CONSUME(Newline);
  });

  readonly switchOption = this.RULE("switchOption", () => {
    this.OR([
      { ALT: () => this.CONSUME(k.enable) },
      { ALT: () => this.CONSUME(k.disable) },
      { ALT: () => this.CONSUME(k.up) },
      { ALT: () => this.CONSUME(k.down) },
      {
        ALT: () => {
          this.CONSUME(k.group);
          this.SUBRULE1(this.string, { LABEL: "groupName" });
        },
      },
      {
        ALT: () => {
          this.CONSUME(k.interface);
          this.SUBRULE2(this.string, { LABEL: "interfaceName" });
        },
      },
      {
        ALT: () => {
          this.CONSUME(k.rdomain);
          this.SUBRULE3(this.string, { LABEL: "domain" });
        },
      },
      {
        ALT: () => {
          this.CONSUME(k.locked);
          this.CONSUME(k.lladdr);
        },
      },
      {
        ALT: () => {
          this.CONSUME(k.add);
          this.SUBRULE4(this.string, { LABEL: "member" });
        },
      },
    ]);
  });

  readonly vmBlock = this.RULE("vmBlock", () => {
    this.CONSUME(k.vm);
    this.SUBRULE1(this.string, { LABEL: "name" });
    this.OPTION(() => {
      this.CONSUME(k.instance);
      this.SUBRULE2(this.string, { LABEL: "instanceName" });
    });
    this.CONSUME(LeftBrace);
    this.#statements(this.vmOption);
    this.CONSUME(RightBrace);
    this.CONSUME(Newline);
  });

  readonly vmOption = this.RULE("vmOption", () => {
    this.OR([
      { ALT: () => this.CONSUME(k.enable) },
      { ALT: () => this.CONSUME(k.disable) },
      { ALT: () => this.SUBRULE(this.allowBlock) },
      { ALT: () => this.SUBRULE(this.bootOption) },
      { ALT: () => this.SUBRULE(this.diskOption) },
      { ALT: () => this.SUBRULE(this.interfaceOption) },
      { ALT: () => this.SUBRULE(this.vsockOption) },
      { ALT: () => this.SUBRULE(this.portableOption) },
      { ALT: () => this.SUBRULE(this.shareOption) },
      { ALT: () => this.SUBRULE(this.valueOption) },
      { ALT: () => this.CONSUME(k.seves) },
      { ALT: () => this.CONSUME(k.sev) },
    ]);
  });

  /** Options of one value. */
  readonly valueOption = this.RULE("valueOption", () => {
    this.OR([
      { ALT: () => this.CONSUME(k.cdrom) },
      { ALT: () => this.CONSUME(k.cpus) },
      { ALT: () => this.CONSUME(k.interfaces) },
      { ALT: () => this.CONSUME(k.memory) },
      { ALT: () => this.CONSUME(k.owner) },
      { ALT: () => this.CONSUME(k.initrd) },
      { ALT: () => this.CONSUME(k.append) },
      { ALT: () => this.CONSUME(k.module) },
      { ALT: () => this.CONSUME(k.engine) },
      { ALT: () => this.CONSUME(k.device) },
    ]);
    this.SUBRULE(this.string);
  });

  readonly bootOption = this.RULE("bootOption", () => {
    this.CONSUME(k.boot);
    this.OR([
      {
        ALT: () => {
          this.CONSUME(k.device);
          this.OR2([
            { ALT: () => this.CONSUME(k.cdrom) },
            { ALT: () => this.CONSUME(k.disk) },
            { ALT: () => this.CONSUME(k.net) },
          ]);
        },
      },
      { ALT: () => this.SUBRULE(this.string) },
    ]);
  });

  readonly diskOption = this.RULE("diskOption", () => {
    this.CONSUME(k.disk);
    this.SUBRULE1(this.string, { LABEL: "path" });
    this.OPTION(() => {
      this.CONSUME(k.format);
      this.SUBRULE2(this.string, { LABEL: "formatName" });
    });
    this.MANY(() => {
      this.OR([
        { ALT: () => this.SUBRULE(this.diskMode) },
        { ALT: () => this.SUBRULE(this.limitOption) },
      ]);
    });
  });

  readonly diskMode = this.RULE("diskMode", () => {
    this.OR([
      { ALT: () => this.CONSUME(k.ro) },
      { ALT: () => this.CONSUME(k.rw) },
      { ALT: () => this.CONSUME(k.direct) },
    ]);
  });

  /** How much a disk or an interface moves. */
  readonly limitOption = this.RULE("limitOption", () => {
    this.OR([
      { ALT: () => this.CONSUME(k.rate) },
      { ALT: () => this.CONSUME(k.burst) },
      { ALT: () => this.CONSUME(k.operations) },
    ]);
    this.SUBRULE(this.string);
  });

  readonly shareOption = this.RULE("shareOption", () => {
    this.CONSUME(k.share);
    this.SUBRULE(this.string);
    this.CONSUME(LeftBrace);
    this.#statements(this.shareSetting);
    this.CONSUME(RightBrace);
  });

  readonly shareSetting = this.RULE("shareSetting", () => {
    this.OR([
      { ALT: () => this.CONSUME(k.ro) },
      { ALT: () => this.CONSUME(k.rw) },
      {
        ALT: () => {
          this.OR2([
            { ALT: () => this.CONSUME(k.tag) },
            { ALT: () => this.CONSUME(k.allow) },
            { ALT: () => this.CONSUME(k.deny) },
            {
              ALT: () => {
                this.CONSUME(k.map);
                this.CONSUME(k.user);
              },
            },
          ]);
          this.SUBRULE(this.string);
        },
      },
    ]);
  });

  readonly vsockOption = this.RULE("vsockOption", () => {
    this.CONSUME(k.vsock);
    this.SUBRULE1(this.string, { LABEL: "path" });
    this.CONSUME(k.cid);
    this.SUBRULE2(this.string, { LABEL: "cidNumber" });
  });

  readonly portableOption = this.RULE("portableOption", () => {
    this.CONSUME(k.portable);
    this.OPTION(() => {
      this.CONSUME(k.tsc);
      this.SUBRULE(this.string);
    });
  });

  readonly interfaceOption = this.RULE("interfaceOption", () => {
    this.OPTION1(() => this.CONSUME(k.local));
    this.CONSUME(k.interface);
    this.OPTION2(() => this.SUBRULE(this.string));
    this.OPTION3(() => {
      this.CONSUME(LeftBrace);
      this.#statements(this.cardOption);
      this.CONSUME(RightBrace);
    });
  });

  readonly cardOption = this.RULE("cardOption", () => {
    this.OR([
      { ALT: () => this.CONSUME(k.up) },
      { ALT: () => this.CONSUME(k.down) },
      { ALT: () => this.SUBRULE(this.limitOption) },
      {
        ALT: () => {
          this.CONSUME(k.group);
          this.SUBRULE1(this.string, { LABEL: "groupName" });
        },
      },
      {
        ALT: () => {
          this.CONSUME(k.switch);
          this.SUBRULE2(this.string, { LABEL: "switchName" });
        },
      },
      {
        ALT: () => {
          this.CONSUME(k.rdomain);
          this.SUBRULE3(this.string, { LABEL: "domain" });
        },
      },
      {
        ALT: () => {
          this.CONSUME(k.forward);
          this.SUBRULE5(this.string, { LABEL: "ports" });
        },
      },
      {
        ALT: () => {
          this.OPTION1(() => this.CONSUME(k.locked));
          this.CONSUME(k.lladdr);
          this.OPTION2(() => this.SUBRULE4(this.string, { LABEL: "address" }));
        },
      },
    ]);
  });

  readonly allowBlock = this.RULE("allowBlock", () => {
    this.CONSUME(k.allow);
    this.CONSUME(k.instance);
    this.CONSUME(LeftBrace);
    this.#statements(this.allowOption);
    this.CONSUME(RightBrace);
  });

  readonly allowOption = this.RULE("allowOption", () => {
    this.OR([
      { ALT: () => this.CONSUME(k.boot) },
      { ALT: () => this.CONSUME(k.cpus) },
      { ALT: () => this.CONSUME(k.cdrom) },
      { ALT: () => this.CONSUME(k.disk) },
      { ALT: () => this.CONSUME(k.instance) },
      { ALT: () => this.CONSUME(k.interface) },
      { ALT: () => this.CONSUME(k.memory) },
      {
        ALT: () => {
          this.CONSUME(k.owner);
          this.SUBRULE(this.string);
        },
      },
    ]);
  });
}

let parser: VmConfParser | undefined;

/** A node of the tree. */
export interface Node {
  name: string;
  children: Record<string, (Node | IToken)[] | undefined>;
  /** It has an error, and perhaps lacks something. */
  recoveredNode?: boolean;
}

/** Parses all of a configuration. @returns also the tokens at which the grammar was broken. */
export function parseTokens(tokens: IToken[]): { tree: Node; broken: IToken[] } {
  parser ??= new VmConfParser();
  parser.input = tokens;
  const tree = parser.file() as unknown as Node;
  // At the file's end there is no token: the last one tells where that is.
  const last = tokens.at(-1);
  const broken = parser.errors.map(({ token }) => (token.payload === undefined ? last : token));
  return { tree, broken: broken.filter((token) => token !== undefined) };
}

/** For tests: the grammar, looked over for ambiguities. @throws Error that names them */
export function checkGrammar(): void {
  parser = new VmConfParser(true);
}
