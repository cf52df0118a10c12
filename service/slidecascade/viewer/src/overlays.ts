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
  /** Of a picture, which the browser keeps until it is revoked. */
  url: string | null;
  /** Where its left top corner is, and how large its pixels are, in pixels of level 0. */
  place: Place;
}

interface Place {
  x: number;
  y: number;
  pixel: number;
}

/** A single picture over a part of a slide; the promise is asked for once it is to be shown. */
export interface Picture extends Place {
  fetch(): Promise<Blob>;
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
    const overlay = this.opened(name, opacity, side, { x: 0, y: 0, pixel: 1 });
    if (overlay) this.add(name, overlay, pyramidOf(slide, address), {});
  }

  /** Lays a picture over a part of the slide, as `lay` does tiles. */
  layPicture(slide: SlideInfo, name: string, opacity: number, side: Side, picture: Picture): Promise<void> {
    const overlay = this.opened(name, opacity, side, picture);
    return overlay ? this.addPicture(slide, name, overlay, picture) : Promise.resolve();
  }

  /** A new overlay of this name, for it to be added; null: it is there already, or not wanted. */
  private opened(name: string, opacity: number, side: Side, place: Place): Overlay | null {
    const laid = this.overlays.get(name);
    if (laid) {
      laid.opacity = opacity;
      laid.side = side;
      this.settle(name, laid);
    }
    if (laid || opacity <= 0) return null;
    const overlay: Overlay = { opacity, side, item: null, url: null, place };
    this.overlays.set(name, overlay);
    return overlay;
  }

  private async addPicture(slide: SlideInfo, name: string, overlay: Overlay, picture: Picture): Promise<void> {
    const { x, y, pixel } = picture;
    try {
      const content = await picture.fetch();
      const bitmap = await createImageBitmap(content);
      const wide = (bitmap.width * pixel) / slide.width;
      bitmap.close();
      if (this.overlays.get(name) !== overlay) return;
      overlay.url = URL.createObjectURL(content);
      this.add(name, overlay, { type: "image", url: overlay.url }, { x: x / slide.width, y: y / slide.width, width: wide });
    } catch (error) {
      if (this.overlays.get(name) === overlay) this.overlays.delete(name);
      throw error;
    }
  }

  private add(name: string, overlay: Overlay, source: object, place: { x?: number; y?: number; width?: number }): void {
    this.viewer.addTiledImage({
      tileSource: source as OpenSeadragon.TileSource,
      opacity: overlay.opacity,
      ...place,
      success: (event: Event) => {
        overlay.item = (event as unknown as { item: OpenSeadragon.TiledImage }).item;
        if (this.overlays.get(name) === overlay) this.settle(name, overlay);
        else this.remove(overlay);
      },
    });
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
    this.remove(overlay);
  }

  /** Removes what was laid; a picture that is being added is removed when that is done. */
  private remove({ item, url }: Overlay): void {
    if (!item) return;
    this.viewer.world.removeItem(item);
    if (url) URL.revokeObjectURL(url);
  }

  /** Cuts layers that belong to a side off at the divider. */
  clip(): void {
    const divider = this.dividerAt();
    for (const { item, side, place } of this.overlays.values()) {
      if (!item || (divider === null && item.getClip() === null)) continue;
      if (divider === null || side === null) {
        item.setClip(null);
        continue;
      }
      const { x: width, y: height } = item.getContentSize();
      const at = Math.min(width - 1, Math.max(1, (divider.at - place.x) / place.pixel));
      const isLeft = side === "left";
      item.setClip(isLeft ? new OpenSeadragon.Rect(0, 0, at, height) : new OpenSeadragon.Rect(at, 0, width - at, height));
    }
  }

  clear(): void {
    for (const overlay of this.overlays.values()) this.remove(overlay);
    this.overlays.clear();
  }

  /** Forgets all layers of a slide that is replaced by another one. */
  forget(): void {
    this.overlays.clear();
  }
}
