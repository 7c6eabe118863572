/** Editors of cells get the colours of `marks.ts`. */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { EditorExtensionRegistry, IEditorExtensionRegistry } from '@jupyterlab/codemirror';

import { magics } from './marks';

const plugin: JupyterFrontEndPlugin<void> = {
  id: 'pydotcompute:highlight',
  description: 'Highlights the lines of %%ring_kernel and %ring in cells.',
  autoStart: true,
  requires: [IEditorExtensionRegistry],
  activate: (_: JupyterFrontEnd, registry: IEditorExtensionRegistry) =>
    registry.addExtension(
      Object.freeze({
        name: 'pydotcompute:highlight',
        // Editors of files are not inline: what they show is no cell.
        factory: ({ inline }: { inline: boolean }) =>
          inline ? EditorExtensionRegistry.createImmutableExtension(magics) : null
      })
    )
};

export default plugin;
