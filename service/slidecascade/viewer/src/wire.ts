// The parts of the public API that the page reads; the server's OpenAPI document has all of them.

export type Color = [number, number, number];

export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  request_id: string;
}

export interface ClassInfo {
  name: string;
  color: Color;
}

export interface SlideInfo {
  id: string;
  width: number;
  height: number;
  mpp: number | null;
  objective_power: number | null;
  vendor: string | null;
  content_id: string | null;
  channels: string[];
}

/** A slide that was asked for by its id: what it is, unless it cannot be opened, and why it cannot be shown, if so. */
export interface ListedSlide {
  id: string;
  info?: SlideInfo;
  problem?: Problem;
}

export interface ModelInfo {
  name: string;
  inputs: { channels: string[] }[];
}

export interface PipelineInfo {
  name: string;
  kind: string;
  title: string;
  description: string;
  thresholds: Record<string, number>;
  segmenter: string | null;
  classifiers: string[];
  stain: string;
  classes: ClassInfo[];
}

export interface Job {
  id: string;
  status: "queued" | "running" | "succeeded" | "failed" | "cancelled";
  pipeline: string;
  slide: string | null;
  label: string | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  progress: { fields_done: number; fields_total: number | null; fraction: number; cells: number; eta_s: number | null };
  error: Problem | null;
}

export interface Share {
  value: number | null;
  numerator: number;
  denominator: number;
  of: string;
}

/** The part of the tissue that a class of a companion network covers; areas are null where no pixel size is known. */
export interface AreaShare {
  title: string;
  value: number | null;
  numerator_mm2: number | null;
  denominator_mm2: number | null;
}

export interface Legend {
  name: string;
  title: string;
  unit: string;
  minimum: number;
  maximum: number;
  stops: Color[];
  /** Micrometres for each of its pixels. */
  pixel_um: number;
}

export interface Warning {
  code: string;
  message: string;
}

/** What was found out about the slide: `stain` is null where colours were not normalised. */
export interface Facts {
  stain?: { method: string } | null;
}

export interface Summary {
  kind: string;
  pipeline: string;
  region: Box;
  mpp: number;
  counts: Record<string, number>;
  fractions: Record<string, Share>;
  /** Of areas, by class: which part of the tissue they are. */
  areas?: Record<string, { area_mm2: number; tissue_share: number | null }> | null;
  area_fractions?: Record<string, AreaShare> | null;
  area_mm2: number;
  tissue_area_mm2: number;
  heatmaps: Legend[];
  warnings: Warning[];
  facts?: Facts;
}

export type Ring = [number, number][];

export interface Feature {
  type: "Feature";
  id?: string;
  geometry: { type: "Polygon"; coordinates: Ring[] } | { type: "MultiPolygon"; coordinates: Ring[][] };
  properties: {
    objectType: string;
    classification?: { name: string; color: Color };
    measurements?: Record<string, number>;
  };
}

export interface FeatureCollection {
  type: "FeatureCollection";
  features: Feature[];
}
