// How fast frames follow each other while the slide moves.

/** Frames that are later than these are seen as jerks: two of a screen of 60 Hz. */
const SLOW_MS = 30;
/** So many frames tell. */
const FRAMES = 6;
/** Longer ones are waits for the hand, not for the drawing. */
const PAUSE_MS = 250;

export class Pace {
  /** Whether this browser is slow in drawing; once it is, it stays so. */
  isSlow = false;
  private last = 0;
  private taken: number[] = [];

  /** A frame of a movement was drawn at `now`, in milliseconds. */
  frame(now: number): void {
    const passed = now - this.last;
    this.last = now;
    if (this.isSlow || passed > PAUSE_MS) return;
    this.taken.push(passed);
    if (this.taken.length < FRAMES) return;
    this.isSlow = this.taken.sort((a, b) => a - b)[FRAMES / 2]! > SLOW_MS;
    this.taken = [];
  }
}
