// What of OpenSeadragon does not suit the page.
import OpenSeadragon from "openseadragon";

/**
 * Tiles of an image that was replaced arrive in vain, and OpenSeadragon warns of each: that is no fault. Those that
 * cannot be had are stated as a problem of the slide.
 */
export function ignoreLateTiles(): void {
  const warn = (message: unknown, ...details: unknown[]) => {
    if (!String(message).startsWith("Ignoring tile")) console.warn(message, ...details);
  };
  const error = (message: unknown, ...details: unknown[]) => {
    if (!String(message).startsWith("Tile %s failed")) console.error(message, ...details);
  };
  Object.assign(OpenSeadragon, { console: Object.assign(Object.create(console) as Console, { warn, error }) });
}

/** OpenSeadragon adds an inline style, which the page's policy forbids, unless it finds an element of this name. */
export function forgoInlineStyle(): void {
  const mark = document.createElementNS("urn:slidecascade", "style");
  mark.setAttribute("data-openseadragon-mobile-css", "true");
  document.head.append(mark);
}
