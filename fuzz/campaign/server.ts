/** Figures by HTTP: `/` a page, `/events` server-sent events, `/metrics` for Prometheus, `/figures` as JSON. */
import type { Figures } from "./figures.ts";
import { PAGE } from "./page.ts";
import { prometheus } from "./prometheus.ts";

/** Points of the charts; when there are more, every second one goes. */
const MAX_POINTS = 512;

/** What the charts show of a moment. */
type Point = Pick<Figures, "seconds" | "edges" | "runsPerSecond" | "corpus">;

/** A campaign's course, in points that lie ever further apart. */
export class History {
  points: Point[] = [];
  private step = 0;

  add({ seconds, edges, runsPerSecond, corpus }: Figures): void {
    const last = this.points.at(-1);
    if (last !== undefined && seconds - last.seconds < this.step) return;
    this.points.push({ seconds, edges, runsPerSecond, corpus });
    if (this.points.length <= MAX_POINTS) return;
    this.points = this.points.filter((_, i) => i % 2 === 0);
    this.step = (2 * seconds) / MAX_POINTS;
  }
}

export class ServerError extends Error {
  override readonly name = "ServerError";
}

export class FiguresServer {
  private readonly server: Bun.Server<undefined>;
  private readonly history = new History();
  private readonly followers = new Set<ReadableStreamDefaultController>();
  private figures: Figures | undefined;

  /**
   * @param port 0: any that is free
   * @param hostname who can ask: only this host, by default
   * @throws ServerError if it can't listen there
   */
  constructor(port: number, hostname = "127.0.0.1") {
    try {
      this.server = Bun.serve({
        port,
        hostname,
        idleTimeout: 0,
        fetch: (request) => this.answer(request),
      });
    } catch (error) {
      throw new ServerError(`can't listen on ${hostname}:${port}: ${(error as Error).message}.`);
    }
  }

  get url(): string {
    return this.server.url.href;
  }

  show(figures: Figures): void {
    this.figures = figures;
    this.history.add(figures);
    const event = this.event();
    for (const follower of this.followers) {
      // One that doesn't read what it gets is left behind.
      if ((follower.desiredSize ?? 0) > -16) follower.enqueue(event);
    }
  }

  async close(): Promise<void> {
    for (const follower of this.followers) follower.close();
    this.followers.clear();
    await this.server.stop(true);
  }

  private event(): Uint8Array {
    const data = JSON.stringify({ figures: this.figures, history: this.history.points });
    return new TextEncoder().encode(`data: ${data}\n\n`);
  }

  private answer(request: Request): Response {
    if (request.method !== "GET") return new Response("GET only\n", { status: 405 });
    const { pathname } = new URL(request.url);
    if (pathname === "/")
      return new Response(PAGE, { headers: this.headers("text/html; charset=utf-8") });
    if (this.figures === undefined) return new Response("no figures yet\n", { status: 503 });
    switch (pathname) {
      case "/events":
        return new Response(this.follow(), { headers: this.headers("text/event-stream") });
      case "/metrics":
        return new Response(prometheus(this.figures), {
          headers: this.headers("text/plain; version=0.0.4; charset=utf-8"),
        });
      case "/figures":
        return Response.json(this.figures, { headers: { "Cache-Control": "no-store" } });
      default:
        return new Response("not found\n", { status: 404 });
    }
  }

  private headers(type: string): Record<string, string> {
    return {
      "Content-Type": type,
      "Cache-Control": "no-store",
      "X-Content-Type-Options": "nosniff",
      "Content-Security-Policy":
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:",
    };
  }

  private follow(): ReadableStream {
    let own: ReadableStreamDefaultController;
    return new ReadableStream({
      start: (controller) => {
        own = controller;
        this.followers.add(controller);
        controller.enqueue(this.event());
      },
      cancel: () => void this.followers.delete(own),
    });
  }
}
