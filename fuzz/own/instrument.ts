/**
 * Puts coverage counters, comparison tracing and limits into TypeScript source, line by line where
 * it was: what comes out is TypeScript again, for the runtime to transpile.
 *
 * Blocks are counted where code branches: functions, both sides of each `if` (an absent `else` too),
 * loops' bodies, cases, operands of `?:`, `&&`, `||` and `??` that may be skipped, `catch`. So two runs
 * that took other ways have other counts: blocks stand for edges.
 */
import MagicString from "magic-string";
import { parseSync, visitorKeys } from "oxc-parser";

/** A node of the syntax tree, ESTree's with TypeScript. */
interface Node {
  readonly type: string;
  readonly start: number;
  readonly end: number;
  readonly [key: string]: unknown;
}

export interface Instrumented {
  readonly code: string;
  /** Line of each block, from the file's first place on. */
  readonly lines: readonly number[];
}

const COMPARE: Record<string, string | undefined> = {
  "===": "eq",
  "!==": "ne",
  "<": "lt",
  "<=": "le",
  ">": "gt",
  ">=": "ge",
};

/** Bytes of an element, of what takes a length. */
const WIDTH: Record<string, number | undefined> = {
  ArrayBuffer: 1,
  SharedArrayBuffer: 1,
  Uint8Array: 1,
  Int8Array: 1,
  Uint16Array: 2,
  Int16Array: 2,
  Uint32Array: 4,
  Int32Array: 4,
  Float32Array: 4,
  Float64Array: 8,
  BigUint64Array: 8,
  BigInt64Array: 8,
  Array: 8,
};

/**
 * @param first the file's first place in the map, and the first number of its comparisons.
 * @param counters what `counters.ts` is imported by.
 */
export function instrument(
  source: string,
  name: string,
  first: number,
  counters: string,
): Instrumented {
  return new Instrumenter(source, name, first).run(counters);
}

class Instrumenter {
  readonly #source: string;
  readonly #name: string;
  readonly #first: number;
  readonly #out: MagicString;
  readonly #lines: number[] = [];
  readonly #lineEnds: number[] = [];
  #sites = 0;
  readonly #uncounted = new Set<Node>();
  /** What comes behind a node, once its parts are done. */
  readonly #closings = new Map<Node, string>();

  constructor(source: string, name: string, first: number) {
    this.#source = source;
    this.#name = name;
    this.#first = first;
    this.#out = new MagicString(source);
    for (let at = source.indexOf("\n"); at >= 0; at = source.indexOf("\n", at + 1)) {
      this.#lineEnds.push(at);
    }
  }

  run(counters: string): Instrumented {
    const { program, errors } = parseSync(this.#name, this.#source);
    if (errors.length > 0) throw new SyntaxError(`${this.#name}: ${errors[0].message}`);
    this.#visit(program as unknown as Node);
    const names = ["hit", "allocate", "tracing", "choose", ...Object.values(COMPARE)];
    const imports = names.map((one) => `${one} as $${one}`).join(", ");
    // On the first line: the others keep their numbers.
    this.#out.prepend(`import { ${imports} } from ${JSON.stringify(counters)};`);
    return { code: this.#out.toString(), lines: this.#lines };
  }

  #place(node: Node): string {
    this.#lines.push(this.#lineOf(node.start));
    return `$hit(${this.#first + this.#lines.length - 1})`;
  }

  #lineOf(offset: number): number {
    let low = 0;
    let high = this.#lineEnds.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#lineEnds[middle] < offset) low = middle + 1;
      else high = middle;
    }
    return low + 1;
  }

  #visit(node: Node): void {
    this.#enter(node);
    for (const key of visitorKeys[node.type] ?? []) {
      const child = node[key];
      if (Array.isArray(child)) {
        for (const one of child) if (isNode(one)) this.#visit(one);
      } else if (isNode(child)) this.#visit(child);
    }
    // Behind what was put at the ends of its parts.
    const closing = this.#closings.get(node);
    if (closing !== undefined) this.#out.appendLeft(node.end, closing);
  }

  #open(node: Node, before: string, after: string): void {
    this.#out.appendLeft(node.start, before);
    this.#closings.set(node, after + (this.#closings.get(node) ?? ""));
  }

  #countExpression(node: unknown): void {
    if (isNode(node)) this.#open(node, `(${this.#place(node)}, `, ")");
  }

  #countStatement(node: unknown): void {
    if (!isNode(node)) return;
    if (node.type === "BlockStatement") {
      this.#out.appendLeft(node.start + 1, `${this.#place(node)};`);
    } else this.#open(node, `{${this.#place(node)};`, "}");
  }

  #enter(node: Node): void {
    switch (node.type) {
      case "FunctionDeclaration":
      case "FunctionExpression":
      case "ArrowFunctionExpression":
        this.#function(node);
        return;
      case "MethodDefinition":
        // Whoever makes an object is counted, and objects of a pool are not always made.
        if (node.kind === "constructor") this.#uncounted.add(node.value as Node);
        return;
      case "IfStatement":
        this.#countStatement(node.consequent);
        if (isNode(node.alternate)) this.#countStatement(node.alternate);
        else this.#open(node, "", ` else ${this.#place(node)};`);
        return;
      case "ForStatement":
      case "ForInStatement":
      case "ForOfStatement":
      case "WhileStatement":
      case "DoWhileStatement":
        this.#countStatement(node.body);
        return;
      case "CatchClause":
        this.#countStatement(node.body);
        return;
      case "SwitchStatement":
        this.#switch(node);
        return;
      case "SwitchCase": {
        const [statement] = node.consequent as Node[];
        if (statement !== undefined) {
          this.#out.appendLeft(statement.start, `${this.#place(statement)};`);
        }
        return;
      }
      case "ConditionalExpression":
        this.#countExpression(node.consequent);
        this.#countExpression(node.alternate);
        return;
      case "LogicalExpression": {
        // What is made when none is left over says where earlier runs went, not where this one does.
        const pooled = node.operator === "??" && (node.right as Node).type === "NewExpression";
        if (!pooled) this.#countExpression(node.right);
        return;
      }
      case "BinaryExpression":
        this.#compare(node);
        return;
      case "NewExpression":
      case "CallExpression":
        this.#allocation(node);
    }
  }

  #function(node: Node): void {
    const { body } = node;
    if (!isNode(body) || this.#uncounted.has(node)) return;
    if (node.expression === true) this.#countExpression(body);
    else this.#out.appendLeft(body.start + 1, `${this.#place(body)};`);
  }

  #compare(node: Node): void {
    const name = COMPARE[node.operator as string];
    const left = node.left as Node;
    const right = node.right as Node;
    if (name === undefined || tellsNothing(left) || tellsNothing(right)) return;
    this.#out.appendLeft(node.start, `$${name}(${this.#site()}, `);
    this.#out.update(left.end, right.start, ", ");
    this.#closings.set(node, `)${this.#closings.get(node) ?? ""}`);
  }

  /** Comparisons of a file are numbered as its blocks are. */
  #site(): number {
    return this.#first + this.#sites++;
  }

  #switch(node: Node): void {
    const discriminant = node.discriminant as Node;
    const tests = (node.cases as Node[]).map(({ test }) => test).filter(isNode);
    if (tests.length === 0 || !tests.every(isConstant)) return;
    const text = (one: Node) => this.#source.slice(one.start, one.end);
    const all = `$choose(${this.#site()}, ${text(discriminant)}, [${tests.map(text).join(", ")}])`;
    this.#open(discriminant, `$tracing ? ${all} : `, "");
  }

  #allocation(node: Node): void {
    const callee = node.callee as Node;
    const [first] = node.arguments as Node[];
    if (first === undefined || first.type === "SpreadElement") return;
    let length: unknown;
    let width = 1;
    if (node.type === "NewExpression") {
      if (callee.type !== "Identifier" || (node.arguments as Node[]).length > 1) return;
      const known = WIDTH[callee.name as string];
      if (known === undefined || first.type === "ArrayExpression") return;
      length = first;
      width = known;
    } else if (callee.type === "MemberExpression" && callee.computed !== true) {
      const method = String((callee.property as Node).name);
      const object = (callee.object as Node).name;
      if (object === "Buffer" && method.startsWith("alloc")) length = first;
      else if (["repeat", "padStart", "padEnd"].includes(method)) length = first;
      else if (object === "Array" && method === "from" && first.type === "ObjectExpression") {
        const property = (first.properties as Node[]).find(
          (one) => one.type === "Property" && (one.key as Node).name === "length",
        );
        if (property?.shorthand !== true) length = property?.value;
        width = 8;
      }
    }
    if (isNode(length)) this.#open(length, `$allocate(${width}, `, ") as number");
  }
}

function isNode(value: unknown): value is Node {
  return typeof (value as Node | null | undefined)?.type === "string";
}

/** What a comparison with it says, coverage says too. */
function tellsNothing(node: Node): boolean {
  if (node.type === "Identifier") return node.name === "undefined";
  if (node.type === "UnaryExpression") return node.operator === "typeof";
  if (node.type !== "Literal") return false;
  const { value } = node;
  return value === null || typeof value === "boolean" || value === 0 || value === 1;
}

/** Reading it twice does nothing. */
function isConstant(node: Node): boolean {
  switch (node.type) {
    case "Literal":
    case "Identifier":
      return true;
    case "UnaryExpression":
      return isConstant(node.argument as Node);
    case "MemberExpression":
      return node.computed !== true && isConstant(node.object as Node);
    default:
      return false;
  }
}
