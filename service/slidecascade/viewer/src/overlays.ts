// Layers of tiles over the slide, at both sides of the divider or at one of them.
import OpenSeadragon from "openseadragon";
import type { SlideInfo } from "./wire.ts";

const TILE_PX = 256;

/** At which side of the divider something is shown; null: at both. */
export type Side = "left" | "right" | null;

interface Overlay {
  opacity: number;
  side: Side;
  /** Null: it is being added. */
  item: OpenSeadragon.TiledImage | null;
}

/** Where a tile is fetched. */
export type Address = (level: number, x: number, y: number) => string;

/** A Deep Zoom pyramid in the slide's own coordinates. */
export function pyramidOf(slide: SlideInfo, address: Address): object {
  return { width: slide.width, height: slide.height, tileSize: TILE_PX, tileOverlap: 0, getTileUrl: address };
}

export class Overlays {
  private readonly overlays = new Map<string, Overlay>();

  /** `dividerAt`: where the divider is, in pixels of level 0, and the slide; null: there is none. */
  constructor(
    private readonly viewer: OpenSeadragon.Viewer,
    private readonly dividerAt: () => { at: number; slide: SlideInfo } | null,
  ) {}

  /** Lays tiles over the slide, or changes how opaque they are; 0 removes them. */
  lay(slide: SlideInfo, name: string, opacity: number, side: Side, address: Address): void {
    const laid = this.overlays.get(name);
    if (laid) {
      laid.opacity = opacity;
      laid.side = side;
      this.settle(name, laid);
    } else if (opacity > 0) {
      const overlay: Overlay = { opacity, side, item: null };
      this.overlays.set(name, overlay);
      this.viewer.addTiledImage({
        tileSource: pyramidOf(slide, address) as unknown as OpenSeadragon.TileSource,
        opacity,
        success: (event: Event) => {
          overlay.item = (event as unknown as { item: OpenSeadragon.TiledImage }).item;
          if (this.overlays.get(name) === overlay) this.settle(name, overlay);
          else this.viewer.world.removeItem(overlay.item);
        },
      });
    }
  }

  /** Makes a layer as opaque as is wanted by now; while it is being added it waits for that. */
  private settle(name: string, overlay: Overlay): void {
    if (!overlay.item) return;
    if (overlay.opacity > 0) {
      overlay.item.setOpacity(overlay.opacity);
      this.clip();
      return;
    }
    this.overlays.delete(name);
    this.viewer.world.removeItem(overlay.item);
  }

  /** Cuts layers that belong to a side off at the divider. */
  clip(): void {
    const divider = this.dividerAt();
    for (const { item, side } of this.overlays.values()) {
      if (!item || (divider === null && item.getClip() === null)) continue;
      if (divider === null || side === null) {
        item.setClip(null);
        continue;
      }
      const { width, height } = divider.slide;
      const at = Math.min(width - 1, Math.max(1, divider.at));
      const isLeft = side === "left";
      item.setClip(isLeft ? new OpenSeadragon.Rect(0, 0, at, height) : new OpenSeadragon.Rect(at, 0, width - at, height));
    }
  }

  clear(): void {
    for (const { item } of this.overlays.values()) if (item) this.viewer.world.removeItem(item);
    this.overlays.clear();
  }

  /** Forgets all layers of a slide that is replaced by another one. */
  forget(): void {
    this.overlays.clear();
  }
}
